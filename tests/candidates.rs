//! The candidates for the table of kernels agree with the oracle. They are compiled where `WARPFOLD_SWEEP` is set; `cargo xtask sweep`
//! checks them on plain problems, too.

#![cfg(feature = "emulator")]

mod common;

use common::Placement;
use common::attention::Attempt;
use warpfold::emulator::{Completion, EmulatorBuilder, Schedule};
use warpfold::reference::AttentionCase;
use warpfold::variants::{self, Arch, Operation, Tile, Variant};
use warpfold::{Attention, BackwardSpec, DType, Device, Error, GpuTarget, QkvSpec, Target, TensorSpec};

/// Few blocks, so that each does several pieces of work.
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

/// Problems whose tiles differ in what is hidden.
fn problems(head_dim: usize) -> Vec<(&'static str, AttentionCase)> {
    let case = |batch, heads, len_q, len_kv| AttentionCase::new(batch, heads, len_q, len_kv, head_dim);
    vec![
        ("a ragged last piece", AttentionCase { heads_kv: 1, ..case(1, 1, 290, 300) }),
        ("later pieces see more", AttentionCase { causal: true, ..case(1, 1, 400, 400) }),
        (
            "each piece sees tiles that others do not",
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
                let why = format!("{}: {why}; {how}", row.name());
                match row.operation {
                    Operation::AttentionForward => attempt.check(device, &why),
                    _ => attempt.check_backward(device, false, &why),
                }
            }
        }
    }
}

/// A row's bits are those of its own inputs: turns do not show in them.
#[test]
fn turns_do_not_change_the_bits() {
    let Some(devices) = emulators() else { return };
    let kernels = warpfold::kernels();
    let is_compiled = |row: &&Variant| kernels.iter().any(|kernel| kernel.name == row.name());
    let rows: Vec<&Variant> = variants::VARIANTS.iter().chain(variants::sweep()).filter(is_compiled).collect();
    let mut num_compared = 0;
    for row in &rows {
        let Tile::AttentionHopper { head_dim, ping_pong: true, .. } = row.tile else { continue };
        let mut without = row.tile;
        if let Tile::AttentionHopper { ping_pong, .. } = &mut without {
            *ping_pong = false;
        }
        let same =
            |other: &&&Variant| (other.operation, other.dtype, other.tile) == (row.operation, row.dtype, without);
        let Some(simple) = rows.iter().find(same) else { continue };
        let (_, case) = problems(head_dim as usize).swap_remove(2);
        let run = |row: &Variant| {
            let attempt = Attempt::new(case.clone(), row.dtype, Placement::Contiguous);
            Attempt { kernel: Some(row.name()), ..attempt }.run(&devices[0].1).expect("a valid case")
        };
        assert!(run(row) == run(simple), "{} and {} differ", row.name(), simple.name());
        num_compared += 1;
    }
    if num_compared == 0 {
        common::skipped("turns", "candidates are compiled where WARPFOLD_SWEEP is set");
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

#[test]
fn a_kernel_that_does_not_fit_is_refused_with_those_that_do() {
    let tensor = |len| TensorSpec::contiguous(DType::BF16, [2, 3, len, 128]).expect("a small tensor");
    let target = Target::Gpu(GpuTarget::H100);
    let spec = QkvSpec::new(tensor(1100), tensor(900), tensor(900));
    let plan = Attention::new().plan(&spec, &target).expect("a valid problem");
    let Err(error @ Error::NoKernel { .. }) = plan.with_kernel("attention_forward_sm90a_bf16_d64_plain") else {
        panic!("rows of 128 do not fit a tile of 64");
    };
    assert!(error.to_string().contains("attention_forward_sm90a_bf16_d128_plain_q192_k64_s3_w3"), "{error}");
    let plan = Attention::new().plan_backward(&BackwardSpec::new(spec), &target).expect("a valid problem");
    let Err(error @ Error::NoKernel { .. }) = plan.with_kernel("attention_forward_sm90a_bf16_d128_plain") else {
        panic!("the forward kernel has no part in the backward pass");
    };
    assert!(error.to_string().contains("attention_backward_query_sm90a_bf16_d128_plain"), "{error}");
}
