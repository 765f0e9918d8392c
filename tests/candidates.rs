//! The candidates for the table of kernels agree with the oracle: clusters whose blocks see different keys, warpgroups that take
//! turns. They are compiled where `WARPFOLD_SWEEP` is set; `cargo xtask sweep` checks them on plain problems, too.

#![cfg(feature = "emulator")]

mod common;

use common::Placement;
use common::attention::Attempt;
use warpfold::emulator::{Completion, EmulatorBuilder, Schedule};
use warpfold::reference::AttentionCase;
use warpfold::variants::{self, Arch, Tile, Variant};
use warpfold::{Attention, DType, Device, Error, GpuTarget, QkvSpec, Target, TensorSpec};

/// Few blocks, so that each does several pieces of work: one cluster, and more of them than two pieces need.
fn emulators() -> Option<Vec<(&'static str, Device)>> {
    let new = |num_sms| EmulatorBuilder::new(Arch::Sm90a).target(GpuTarget { num_sms, ..GpuTarget::H100 });
    let builders = [
        ("warps in order, copies as late as can be", new(2)),
        ("random warps, copies at any time", new(5).schedule(Schedule::Random).completion(Completion::Random).seed(1)),
        ("warps in reverse, copies at once", new(3).schedule(Schedule::Reverse).completion(Completion::Earliest)),
    ];
    let mut devices = Vec::new();
    for (why, builder) in builders {
        match builder.build() {
            Ok(device) => devices.push((why, device)),
            Err(error) => {
                common::skipped("candidates", error);
                return None;
            }
        }
    }
    Some(devices)
}

/// Problems that take the blocks of a cluster apart. A piece of work has 256 or 384 rows.
fn problems(head_dim: usize) -> Vec<(&'static str, AttentionCase)> {
    let case = |batch, heads, len_q, len_kv| AttentionCase::new(batch, heads, len_q, len_kv, head_dim);
    vec![
        ("the last piece has no row for the second block", AttentionCase { heads_kv: 1, ..case(1, 1, 290, 300) }),
        ("the second block sees more", AttentionCase { causal: true, ..case(1, 1, 400, 400) }),
        (
            "each block sees tiles that the other does not",
            AttentionCase { causal: true, window: (Some(60), Some(0)), ..case(1, 1, 500, 500) },
        ),
        ("rows without keys before others", AttentionCase { causal: true, ..case(2, 1, 420, 150) }),
        (
            "hidden values in every kind of tile",
            AttentionCase { causal: true, key_lengths: Some(vec![0, 70, 257]), ..case(3, 1, 270, 260) },
        ),
        (
            "packed sequences, heads that share a tile",
            AttentionCase {
                heads_kv: 1,
                causal: true,
                query_lengths: Some(vec![150, 0, 1, 280]),
                key_lengths: Some(vec![150, 20, 130, 280]),
                ..case(4, 2, 280, 280)
            },
        ),
    ]
}

#[test]
fn candidates_agree_with_the_oracle() {
    let Some(devices) = emulators() else { return };
    let kernels = warpfold::kernels();
    let is_compiled = |row: &&Variant| kernels.iter().any(|kernel| kernel.name == row.name());
    let rows: Vec<&Variant> = variants::sweep().filter(is_compiled).collect();
    if rows.is_empty() {
        return common::skipped("candidates", "they are compiled where WARPFOLD_SWEEP is set");
    }
    for row in rows {
        let Tile::AttentionHopper { head_dim, .. } = row.tile else { panic!("{} is no candidate", row.name()) };
        for (number, (why, case)) in problems(head_dim as usize).into_iter().enumerate() {
            let placement = [Placement::Contiguous, Placement::Transposed][number % 2];
            let attempt = Attempt { kernel: Some(row.name()), ..Attempt::new(case, row.dtype, placement) };
            for (how, device) in &devices {
                attempt.check(device, &format!("{}: {why}; {how}", row.name()));
            }
        }
    }
}

/// A row's bits are those of its own inputs, not of the choice between blocks on their own and clusters, nor of turns.
#[test]
fn clusters_and_turns_do_not_change_the_bits() {
    let Some(devices) = emulators() else { return };
    let kernels = warpfold::kernels();
    let is_compiled = |name: &str| kernels.iter().any(|kernel| kernel.name == name);
    let rows: Vec<&Variant> = variants::VARIANTS.iter().chain(variants::sweep()).collect();
    let mut num_compared = 0;
    for row in variants::sweep().filter(|row| is_compiled(&row.name())) {
        let Tile::AttentionHopper { head_dim, head_dim_v, block_q, block_kv, stages, consumers, features, .. } =
            row.tile
        else {
            continue;
        };
        let alone = Tile::AttentionHopper {
            head_dim,
            head_dim_v,
            block_q,
            block_kv,
            stages,
            consumers,
            cluster: 1,
            ping_pong: false,
            features,
        };
        let same = |other: &&&Variant| (other.operation, other.dtype, other.tile) == (row.operation, row.dtype, alone);
        let Some(simple) = rows.iter().find(same).filter(|simple| simple.tile != row.tile) else { continue };
        let (_, case) = problems(head_dim as usize).swap_remove(2);
        let run = |row: &Variant| {
            let attempt = Attempt::new(case.clone(), row.dtype, Placement::Contiguous);
            Attempt { kernel: Some(row.name()), ..attempt }.run(&devices[0].1).expect("a valid case")
        };
        assert!(run(row) == run(simple), "{} and {} differ", row.name(), simple.name());
        num_compared += 1;
    }
    if num_compared == 0 {
        common::skipped("clusters and turns", "candidates are compiled where WARPFOLD_SWEEP is set");
    }
}

/// What the kernels assert when they are compiled, and what a block may have.
#[test]
fn candidates_fit_the_gpu_and_have_names_of_their_own() {
    let mut names: Vec<String> = variants::VARIANTS.iter().chain(variants::sweep()).map(Variant::name).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    for row in variants::sweep() {
        let shared_bytes = row.shared_bytes();
        assert!(shared_bytes <= GpuTarget::H100.shared_bytes_max, "{} takes {shared_bytes} bytes", row.name());
        assert_eq!(variants::named(&row.name()), Some(row));
    }
}

/// A piece of work has rows for both blocks, and each copies half of every tile of keys.
#[test]
fn a_cluster_shares_its_pieces_of_work() {
    let tensor = |len| TensorSpec::contiguous(DType::BF16, [2, 3, len, 128]).expect("a small tensor");
    let target = Target::Gpu(GpuTarget { num_sms: 131, ..GpuTarget::H100 });
    let spec = QkvSpec::new(tensor(1100), tensor(900), tensor(900));
    let plan = Attention::new().plan(&spec, &target).expect("a valid problem");
    assert_eq!(plan.launch().expect("a GPU's plan").cluster, [1, 1, 1]);
    let shared = plan.clone().with_kernel("attention_forward_sm90a_bf16_d128_plain_q128_k96_s2_w2_c2");
    let shared = shared.expect("a candidate that takes the problem");
    let launch = shared.launch().expect("a GPU's plan");
    // 5 pieces of 256 rows for each of 6 heads: more clusters than that would have nothing to do.
    assert_eq!((launch.cluster, launch.grid), ([2, 1, 1], [60, 1, 1]));
    assert_eq!(launch.tensor_maps()[1].box_dims[..2], [64, 48]);
    assert!(shared.explain().contains("clusters of 2 blocks"), "{}", shared.explain());

    let Err(error @ Error::NoKernel { .. }) = plan.with_kernel("attention_forward_sm90a_bf16_d64_plain") else {
        panic!("rows of 128 do not fit a tile of 64");
    };
    assert!(error.to_string().contains("attention_forward_sm90a_bf16_d128_plain_q128_k96_s2_w2_c2"), "{error}");
}
