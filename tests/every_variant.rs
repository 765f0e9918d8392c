//! Every row of the table of kernels runs on the emulator, against the oracle, with all hazard checks on: under several
//! schedules, with the shared memory of large and of small GPUs, and with the hardware's own roundings.

#![cfg(feature = "emulator")]

mod common;

use std::collections::BTreeSet;

use common::attention::merge::check_merge;
use common::attention::{Attempt, drawn, dropout, sinks, slopes};
use common::rows::RowsAttempt;
use common::{DTYPES, Placement, small};
use warpfold::emulator::{Completion, EmulatorBuilder, Numerics, Schedule, TensorCore};
use warpfold::reference::AttentionCase;
use warpfold::variants::{Arch, Features, Operation, Tile, VARIANTS, Variant};
use warpfold::{
    AttentionForward, AttentionState, DType, Device, GpuTarget, LaunchPlan, LayerNorm, LayerNormSpec, Softmax, Tensor,
    TensorSpec,
};

/// The devices that every row runs on, and what each is there for.
fn emulators() -> Option<Vec<(&'static str, Device)>> {
    let new = || EmulatorBuilder::new(Arch::Sm80);
    let builders = [
        ("warps in order, copies as late as can be", new()),
        ("warps in reverse, copies at once", new().schedule(Schedule::Reverse).completion(Completion::Earliest)),
        (
            "random warps on a GPU with 99 KB of shared memory",
            new().schedule(Schedule::Random).seed(1).target(GpuTarget::A40),
        ),
        (
            "lanes that part and do not meet again by themselves",
            new().schedule(Schedule::Diverged).seed(2).target(GpuTarget::L40S),
        ),
        (
            "results off by what the manual allows",
            new().schedule(Schedule::Random).completion(Completion::Random).seed(3).numerics(Numerics::Perturbed),
        ),
        ("sums as the tensor cores make them", new().tensor_core(TensorCore::Aligned)),
    ];
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
    Some(if small() { devices.split_off(5) } else { devices })
}

/// What runs for a row of the table, or for several.
enum Problem {
    Forward(Attempt),
    /// The backward pass after its forward pass.
    Backward(Attempt),
    Merge(DType),
    Softmax(RowsAttempt),
    LayerNorm(RowsAttempt),
}

impl Problem {
    /// Panics where a result is not the oracle's.
    fn check(&self, device: &Device, why: &str) {
        match self {
            Problem::Forward(attempt) => attempt.check(device, why),
            Problem::Backward(attempt) => attempt.check_backward(device, true, why),
            Problem::Merge(dtype) => check_merge(device, *dtype, 3, true, 72, why),
            Problem::Softmax(attempt) => attempt.check_softmax(device, why),
            Problem::LayerNorm(attempt) => attempt.check_layer_norm(device, true, true, why),
        }
    }

    /// The names of the rows that it is planned onto.
    fn rows(&self, device: &Device) -> Vec<String> {
        let target = device.target();
        let x = |attempt: &RowsAttempt| TensorSpec::contiguous(attempt.dtype, &attempt.shape).expect("a small tensor");
        let name = |launch: Option<&LaunchPlan>| vec![launch.expect("emulators launch").variant.name()];
        match self {
            Problem::Forward(attempt) => attempt.kernels(device).expect("a valid problem")[0].clone(),
            Problem::Backward(attempt) => attempt.kernels(device).expect("a valid problem").concat(),
            Problem::Merge(dtype) => vec![merge_row(*dtype)],
            Problem::Softmax(attempt) => {
                name(Softmax::new().plan(&x(attempt), None, &target).expect("a valid problem").launch())
            }
            Problem::LayerNorm(attempt) => {
                let spec = LayerNormSpec::new(x(attempt));
                name(LayerNorm::new().plan(&spec, &target).expect("a valid problem").launch())
            }
        }
    }
}

/// The row that merges into a type. No plan of it is public: that it runs is seen where it is taken away.
fn merge_row(dtype: DType) -> String {
    let row = VARIANTS.iter().find(|row| row.operation == Operation::AttentionMerge && row.dtype == dtype);
    row.expect("there is one a type").name()
}

/// A problem for a row of the table, if no other row's problem covers it.
fn problem(row: &Variant) -> Option<Problem> {
    match (row.operation, row.tile) {
        (Operation::AttentionForward, Tile::Attention { head_dim, head_dim_v, features, .. }) => {
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
                    let case = AttentionCase { len_q, len_kv, window, key_lengths: Some(vec![150, 97]), ..case };
                    Attempt::new(case, row.dtype, Placement::Transposed)
                }
                Features::General => Attempt::new(with_options(case), row.dtype, Placement::Misaligned),
            };
            Some(Problem::Forward(attempt))
        }
        // The backward pass of a type and head_dim launches all of its rows.
        (Operation::AttentionBackwardQuery, Tile::Attention { head_dim, .. }) => {
            let case = AttentionCase {
                heads_kv: 1,
                causal: true,
                key_lengths: Some(vec![75, 49]),
                ..AttentionCase::new(2, 2, 70, 75, head_dim as usize)
            };
            Some(Problem::Backward(Attempt::new(with_options(case), row.dtype, Placement::Transposed)))
        }
        (Operation::AttentionMerge, _) => Some(Problem::Merge(row.dtype)),
        (Operation::SoftmaxForward | Operation::LayerNormForward, Tile::Rows { .. }) => {
            let columns = row.columns_max().map_or(40_000, |max| max as usize);
            let attempt = RowsAttempt::new(&[6, columns], row.dtype, Placement::Misaligned);
            Some(if row.operation == Operation::SoftmaxForward {
                Problem::Softmax(attempt)
            } else {
                Problem::LayerNorm(attempt)
            })
        }
        _ => None,
    }
}

/// Every option that touches single scores.
fn with_options(case: AttentionCase) -> AttentionCase {
    AttentionCase {
        window: (Some(50), None),
        prefix: 3,
        bias: drawn([1, 2, 70, 75]),
        mask: drawn([2, 1, 70, 75]),
        softcap: Some(6.0),
        slopes: slopes(2),
        sinks: sinks(2),
        dropout: dropout(0.125),
        ..case
    }
}

#[test]
fn every_row_of_the_table_agrees_with_the_oracle() {
    let Some(devices) = emulators() else { return };
    let problems: Vec<(String, Problem)> =
        VARIANTS.iter().filter_map(|row| Some((row.name(), problem(row)?))).collect();
    // A row that no problem reaches is an error in the table; so is a problem for a row that is planned onto another.
    for (_, device) in &devices {
        let mut reached = BTreeSet::new();
        for (name, problem) in &problems {
            let rows = problem.rows(device);
            assert!(rows.contains(name), "the problem for {name} is planned onto {rows:?}");
            reached.extend(rows);
        }
        let missing: Vec<String> = VARIANTS.iter().map(Variant::name).filter(|name| !reached.contains(name)).collect();
        assert!(missing.is_empty(), "no problem is planned onto {missing:?}");
    }
    for (name, problem) in &problems {
        for (why, device) in &devices {
            problem.check(device, &format!("{name}: {why}"));
        }
    }
}

/// Without its kernel a merge fails, so that it is the one that ran.
#[test]
fn a_merge_runs_the_row_of_its_type() {
    if emulators().is_none() {
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
    let Some(devices) = emulators() else { return };
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
}
