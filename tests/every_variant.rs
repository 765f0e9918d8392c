//! Every row of the table of kernels runs on the emulator, against the oracle, with all hazard checks on: under several
//! schedules, with the shared memory of large and of small GPUs, and with the hardware's own roundings.

#![cfg(feature = "emulator")]

mod common;

use std::collections::BTreeSet;

use common::attention::merge::check_merge;
use common::attention::{Attempt, drawn, dropout, sinks, slopes};
use common::rows::norm::NORM_OPERANDS;
use common::rows::softmax::SOFTMAX_OPERANDS;
use common::rows::{NormAttempt, SoftmaxAttempt, drawn_rows, drawn_vector, longest_row};
use common::{DTYPES, Placement, small};
use rayon::prelude::*;
use warpfold::emulator::{Completion, EmulatorBuilder, Numerics, Schedule, TensorCore};
use warpfold::reference::{Alignment, AttentionCase, NormCase, SoftmaxCase};
use warpfold::variants::{Arch, Features, Operation, RowFeatures, Tile, VARIANTS, Variant};
use warpfold::{AttentionForward, AttentionState, DType, Device, GpuTarget, Tensor};

/// The devices that every row of an architecture runs on, and what each is there for.
fn emulators(arch: Arch) -> Option<Vec<(&'static str, Device)>> {
    let new = || EmulatorBuilder::new(arch);
    // Code of sm_80 has to do with the shared memory of small GPUs; that of sm_90a runs on one compute capability. A few
    // blocks of a persistent kernel do all of the work.
    let limits = match arch {
        Arch::Sm90a => [1, 3].map(|num_sms| GpuTarget { num_sms, ..GpuTarget::H100 }),
        _ => [GpuTarget::A40, GpuTarget::L40S],
    };
    let mut builders = vec![
        ("warps in order, copies as late as can be", new()),
        ("warps in reverse, copies at once", new().schedule(Schedule::Reverse).completion(Completion::Earliest)),
        ("random warps on a small GPU", new().schedule(Schedule::Random).seed(1).target(limits[0])),
        (
            "lanes that part and do not meet again by themselves",
            new().schedule(Schedule::Diverged).seed(2).target(limits[1]),
        ),
        (
            "results off by what the manual allows",
            new().schedule(Schedule::Random).completion(Completion::Random).seed(3).numerics(Numerics::Perturbed),
        ),
    ];
    if arch == Arch::Sm90a {
        // Warps have roles there: the lowest copy, the highest compute.
        builders.push(("the warps that copy starve", new().schedule(Schedule::LowestStarved)));
        builders.push((
            "the warps that compute starve",
            new().schedule(Schedule::HighestStarved).completion(Completion::Random).seed(4).target(limits[1]),
        ));
    }
    builders.push(("sums as the tensor cores make them", new().tensor_core(TensorCore::Aligned)));
    let mut devices = Vec::new();
    for (why, builder) in builders {
        match builder.build() {
            Ok(device) => devices.push((why, device)),
            Err(error) => {
                common::skipped("every row of the table of kernels", error);
                return None;
            }
        }
    }
    Some(if small() { devices.split_off(devices.len() - 1) } else { devices })
}

/// What runs for a row of the table, or for several.
enum Problem {
    Forward(Attempt),
    /// The backward pass after its forward pass.
    Backward(Attempt),
    Merge(DType),
    Softmax(SoftmaxAttempt),
    SoftmaxBackward(SoftmaxAttempt),
    Norm(NormAttempt),
    NormBackward(NormAttempt),
}

impl Problem {
    /// Panics where a result is not the oracle's.
    fn check(&self, device: &Device, why: &str) {
        match self {
            Problem::Forward(attempt) => attempt.check(device, why),
            Problem::Backward(attempt) => attempt.check_backward(device, true, why),
            Problem::Merge(dtype) => check_merge(device, *dtype, 3, true, 72, why),
            Problem::Softmax(attempt) => attempt.check(device, why),
            Problem::SoftmaxBackward(attempt) => attempt.check_backward(device, why),
            Problem::Norm(attempt) => attempt.check(device, why),
            Problem::NormBackward(attempt) => attempt.check_backward(device, why),
        }
    }

    /// The names of the rows that it is planned onto.
    fn rows(&self, device: &Device) -> Vec<String> {
        match self {
            Problem::Forward(attempt) => attempt.kernels(device).expect("a valid problem")[0].clone(),
            Problem::Backward(attempt) => attempt.kernels(device).expect("a valid problem").concat(),
            Problem::Merge(dtype) => vec![merge_row(*dtype)],
            Problem::Softmax(attempt) => attempt.kernels(&device.target()).expect("a valid problem")[0].clone(),
            Problem::SoftmaxBackward(attempt) => attempt.kernels(&device.target()).expect("a valid problem")[1].clone(),
            Problem::Norm(attempt) => attempt.kernels(&device.target()).expect("a valid problem")[0].clone(),
            Problem::NormBackward(attempt) => attempt.kernels(&device.target()).expect("a valid problem")[1].clone(),
        }
    }
}

/// The row that merges into a type. No plan of it is public: that it runs is seen where it is taken away.
fn merge_row(dtype: DType) -> String {
    let row = VARIANTS.iter().find(|row| row.operation == Operation::AttentionMerge && row.dtype == dtype);
    row.expect("there is one a type").name()
}

/// The problems for a row of the table; none if another row's problem covers it.
fn problems(row: &Variant) -> Vec<Problem> {
    match (row.operation, row.tile) {
        (
            Operation::AttentionForward,
            Tile::Attention { head_dim, head_dim_v, features, .. }
            | Tile::AttentionHopper { head_dim, head_dim_v, features, .. },
        ) => {
            let case = AttentionCase {
                head_dim_v: head_dim_v as usize,
                heads_kv: 1,
                causal: true,
                key_lengths: Some(vec![75, 49]),
                ..AttentionCase::new(2, 2, 70, 75, head_dim as usize)
            };
            let attempt = match features {
                // A window, a few rows over a tile of queries, tiles that are masked and tiles that are not.
                Features::Plain => {
                    let (len_q, len_kv, window) = (140, 150, (Some(90), None));
                    // A sequence without keys between two that have some.
                    let key_lengths = Some(vec![150, 0, 97]);
                    let case = AttentionCase { batch: 3, len_q, len_kv, window, key_lengths, ..case };
                    Attempt::new(case, row.dtype, Placement::Transposed)
                }
                // Tensor maps describe aligned rows only.
                Features::General if row.arch == Arch::Sm90a => {
                    Attempt::new(with_options(case), row.dtype, Placement::Padded)
                }
                Features::General => Attempt::new(with_options(case), row.dtype, Placement::Misaligned),
            };
            vec![Problem::Forward(attempt)]
        }
        // Windows, a few keys over a block of them, tiles that are masked and tiles that are not.
        (
            Operation::AttentionBackwardKeyValue | Operation::AttentionBackwardQuery,
            Tile::AttentionHopper { head_dim, head_dim_v, features, .. },
        ) => {
            let case = AttentionCase {
                head_dim_v: head_dim_v as usize,
                heads_kv: 1,
                causal: true,
                key_lengths: Some(vec![150, 97]),
                ..AttentionCase::new(2, 2, 140, 150, head_dim as usize)
            };
            let attempt = match features {
                Features::Plain => {
                    let case = AttentionCase { window: (Some(90), None), ..case };
                    Attempt::new(case, row.dtype, Placement::Transposed)
                }
                Features::General => Attempt::new(with_options(case), row.dtype, Placement::Padded),
            };
            vec![Problem::Backward(attempt)]
        }
        // The backward pass of a type and head_dim launches all of its rows.
        (Operation::AttentionBackwardQuery, Tile::Attention { head_dim, .. }) => {
            let case = AttentionCase {
                heads_kv: 1,
                causal: true,
                key_lengths: Some(vec![75, 49]),
                ..AttentionCase::new(2, 2, 70, 75, head_dim as usize)
            };
            vec![Problem::Backward(Attempt::new(with_options(case), row.dtype, Placement::Transposed))]
        }
        (Operation::AttentionMerge, _) => vec![Problem::Merge(row.dtype)],
        (operation, Tile::Rows { rows_per_block, features, .. }) => {
            let longest = longest_row(row);
            // A block a row takes one segment, or several. More rows than one block has.
            let shapes = match rows_per_block {
                1 => vec![[11, 2001], [2, longest + longest / 4]],
                _ => vec![[rows_per_block as usize + 3, longest]],
            };
            let problem = |shape| match operation {
                Operation::SoftmaxForward => Problem::Softmax(softmax(row.dtype, shape, features)),
                Operation::SoftmaxBackward => Problem::SoftmaxBackward(softmax(row.dtype, shape, features)),
                Operation::NormForward => Problem::Norm(norm(row.dtype, shape, features)),
                _ => Problem::NormBackward(norm(row.dtype, shape, features)),
            };
            shapes.into_iter().map(problem).collect()
        }
        _ => Vec::new(),
    }
}

/// Softmax of rows that only kernels with these features take, with every option that they have.
fn softmax(dtype: DType, shape: [usize; 2], features: RowFeatures) -> SoftmaxAttempt {
    let case = SoftmaxCase { scale: 0.75, ..SoftmaxCase::new(&shape) };
    if features != RowFeatures::General {
        return SoftmaxAttempt::new(case, dtype, Placement::Contiguous);
    }
    let [rows, columns] = shape;
    let case = SoftmaxCase {
        bias: drawn_rows(&[1, columns]),
        mask: drawn_rows(&shape),
        causal: true,
        window: (Some(columns / 2), None),
        prefix: 2,
        alignment: Alignment::Offset(columns as i64 - rows as i64 / 2),
        ..case
    };
    SoftmaxAttempt {
        bias_dtype: DType::F32,
        placements: [Placement::Misaligned; SOFTMAX_OPERANDS],
        ..SoftmaxAttempt::new(case, dtype, Placement::Misaligned)
    }
}

/// The same of a norm.
fn norm(dtype: DType, [rows, columns]: [usize; 2], features: RowFeatures) -> NormAttempt {
    let case =
        NormCase { weight: drawn_vector(), bias: drawn_vector(), is_zero_centered: true, ..NormCase::layer(columns) };
    let plain = NormAttempt::new(case.clone(), &[rows], dtype, Placement::Contiguous);
    let plain = NormAttempt { with_residual: true, with_d_sum: true, ..plain };
    if features != RowFeatures::General {
        return plain;
    }
    NormAttempt {
        case: NormCase { dropout: dropout(0.125), ..case },
        placements: [Placement::Misaligned; NORM_OPERANDS],
        // They are recomputed, where several blocks share a row by kernels of their own.
        with_stats: false,
        with_d_residual: true,
        ..plain
    }
}

/// Every option that touches single scores.
fn with_options(case: AttentionCase) -> AttentionCase {
    AttentionCase {
        window: (Some(50), None),
        prefix: 3,
        bias: drawn([1, 2, case.len_q, case.len_kv]),
        mask: drawn([2, 1, case.len_q, case.len_kv]),
        softcap: Some(6.0),
        slopes: slopes(2),
        sinks: sinks(2),
        dropout: dropout(0.125),
        ..case
    }
}

#[test]
fn every_row_of_the_table_agrees_with_the_oracle() {
    for arch in Arch::ALL {
        every_row_agrees_with_the_oracle(arch);
    }
}

fn every_row_agrees_with_the_oracle(arch: Arch) {
    let Some(devices) = emulators(arch) else { return };
    let rows = || VARIANTS.iter().filter(|row| row.arch == arch);
    let problems: Vec<(String, Problem)> =
        rows().flat_map(|row| problems(row).into_iter().map(|problem| (row.name(), problem))).collect();
    // A row that no problem reaches is an error in the table; so is a problem for a row that is planned onto another.
    for (_, device) in &devices {
        let mut reached = BTreeSet::new();
        for (name, problem) in &problems {
            let rows = problem.rows(device);
            assert!(rows.contains(name), "the problem for {name} is planned onto {rows:?}");
            reached.extend(rows);
        }
        let missing: Vec<String> = rows().map(Variant::name).filter(|name| !reached.contains(name)).collect();
        assert!(missing.is_empty(), "no problem is planned onto {missing:?}");
    }
    problems.par_iter().for_each(|(name, problem)| {
        for (why, device) in &devices {
            problem.check(device, &format!("{name}: {why}"));
        }
    });
}

/// Without its kernel a merge fails, so that it is the one that ran.
#[test]
fn a_merge_runs_the_row_of_its_type() {
    if emulators(Arch::Sm80).is_none() {
        return;
    }
    for dtype in DTYPES {
        let row = merge_row(dtype);
        let nothing = ".version 7.8\n.target sm_80\n.address_size 64\n";
        let device = EmulatorBuilder::new(Arch::Sm80).replace_kernel(&row, nothing).build().expect("an emulator");
        let state = AttentionForward {
            output: Tensor::zeros(&device, DType::F32, [1, 1, 2, 8]).expect("a small tensor"),
            lse: Tensor::zeros(&device, DType::F32, [1, 1, 2]).expect("a small tensor"),
        };
        let state = AttentionState::from_natural_log(state).expect("a valid state");
        let error = state.finish(dtype, None).expect_err("there is no kernel");
        assert!(error.to_string().contains(&row), "{error}");
    }
}

#[test]
fn no_two_rows_have_one_name() {
    let mut names: Vec<String> = VARIANTS.iter().map(Variant::name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), VARIANTS.len());
}

/// The bits of a result are those of the inputs: not of the order of warps, nor of the number of SMs.
#[test]
fn schedules_do_not_change_the_bits() {
    for arch in Arch::ALL {
        schedules_do_not_change_the_bits_on(arch);
    }
}

fn schedules_do_not_change_the_bits_on(arch: Arch) {
    let Some(devices) = emulators(arch) else { return };
    let case = AttentionCase::new(1, 2, 150, 130, 64);
    for case in [case.clone(), AttentionCase { bias: drawn([1, 2, 150, 130]), sinks: sinks(2), ..case }] {
        let attempt = Attempt::new(case, DType::BF16, Placement::Contiguous);
        let results: Vec<_> = devices[..devices.len().min(4)]
            .iter()
            .map(|(_, device)| {
                let forward = attempt.run(device).expect("a valid case");
                (forward, attempt.run_backward(device, true).expect("a valid case"))
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }
    // The sums over rows, too, by a kernel of many rows a block and by one of one.
    for (shape, features) in [([150, 200], RowFeatures::Plain), ([20, 1100], RowFeatures::General)] {
        let (norm, softmax) = (norm(DType::F16, shape, features), softmax(DType::F16, shape, features));
        let results: Vec<_> = devices[..devices.len().min(4)]
            .iter()
            .map(|(_, device)| {
                let norms = (norm.run(device).expect("a valid case"), norm.run_backward(device).expect("a valid case"));
                (norms, softmax.run(device).expect("a valid case"), softmax.run_backward(device).expect("a valid case"))
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{shape:?}");
    }
}
