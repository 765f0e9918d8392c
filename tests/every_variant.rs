//! Every row of the table of kernels runs on the emulator, against the oracle, with all hazard checks on: under several
//! schedules, with the shared memory of large and of small GPUs, and with the hardware's own roundings.

#![cfg(feature = "emulator")]

mod common;

use common::attention::Attempt;
use common::rows::RowsAttempt;
use common::{Placement, small};
use warpfold::emulator::{Completion, EmulatorBuilder, Numerics, Schedule, TensorCore};
use warpfold::reference::{Alignment, AttentionCase};
use warpfold::variants::{Arch, Features, Operation, Tile, VARIANTS, Variant};
use warpfold::{Attention, Device, GpuTarget, LayerNorm, LayerNormSpec, QkvSpec, Softmax, Target, TensorSpec};

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

/// A problem that is planned onto exactly this row. A row that no problem reaches is an error in the table.
fn run(variant: &Variant, why: &str, device: &Device) {
    let Target::Gpu(_) = device.target() else { unreachable!("emulators are GPUs") };
    let planned = match variant.tile {
        Tile::Attention { head_dim, features, .. } => {
            let placement = match features {
                Features::Plain => Placement::Transposed,
                Features::General => Placement::Misaligned,
            };
            let case = AttentionCase {
                heads_kv: 1,
                causal: Some(Alignment::BottomRight),
                key_lengths: Some(vec![150, 97]),
                ..AttentionCase::new(2, 2, 140, 150, head_dim as usize)
            };
            let attempt = Attempt::new(case, variant.dtype, placement);
            attempt.check(device, why);
            let (layout, _) = placement.layout(&[2, 2, 140, head_dim as usize]);
            let (kv_layout, _) = placement.layout(&[2, 1, 150, head_dim as usize]);
            let alignment_bytes = if features == Features::Plain { 16 } else { 2 };
            let spec = |layout| TensorSpec { dtype: variant.dtype, layout, alignment_bytes };
            let spec = QkvSpec::new(spec(layout), spec(kv_layout), spec(kv_layout)).output(spec(layout));
            let plan = Attention::new().plan(&spec, &device.target()).expect("a valid problem");
            plan.launch().expect("emulators launch").variant
        }
        Tile::Rows { .. } => {
            let columns = variant.columns_max().map_or(40_000, |max| max as usize);
            let attempt = RowsAttempt::new(&[6, columns], variant.dtype, Placement::Misaligned);
            let x = TensorSpec::contiguous(variant.dtype, [6, columns]).expect("a small tensor");
            match variant.operation {
                Operation::SoftmaxForward => {
                    attempt.check_softmax(device, why);
                    let plan = Softmax::new().plan(&x, None, &device.target()).expect("a valid problem");
                    plan.launch().expect("emulators launch").variant
                }
                Operation::LayerNormForward => {
                    attempt.check_layer_norm(device, true, true, why);
                    let plan =
                        LayerNorm::new().plan(&LayerNormSpec::new(x), &device.target()).expect("a valid problem");
                    plan.launch().expect("emulators launch").variant
                }
                other => panic!("no test for {other:?}: write one"),
            }
        }
    };
    assert_eq!(planned.name(), variant.name(), "the test's problem is planned onto another row");
}

#[test]
fn every_row_of_the_table_agrees_with_the_oracle() {
    let Some(devices) = emulators() else { return };
    for variant in &VARIANTS {
        for (why, device) in &devices {
            run(variant, &format!("{}: {why}", variant.name()), device);
        }
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
    let attempt = Attempt::new(AttentionCase::new(1, 2, 150, 130, 64), warpfold::DType::BF16, Placement::Contiguous);
    let results: Vec<_> = devices[..devices.len().min(4)]
        .iter()
        .map(|(_, device)| attempt.run(device).map(|outcome| (outcome.output, outcome.lse)).expect("a valid case"))
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}
