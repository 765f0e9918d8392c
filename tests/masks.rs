//! `Mask`'s bounds and FLOP count against the oracle's own `visible`.

use std::ops::Range;

use proptest::prelude::*;
use warpfold::reference::{Alignment, AttentionCase};
use warpfold::{Attention, BackwardSpec, DType, GpuTarget, LengthsSpec, Mask, QkvSpec, Target, TensorSpec};

/// A case without anything but what positions and a range of keys hide.
fn case() -> impl Strategy<Value = AttentionCase> {
    let reach = || prop::option::of(prop_oneof![3 => 0..90usize, 1 => Just(usize::MAX)]);
    let sizes = (1..60usize, 0..60usize);
    let mask = (any::<bool>(), reach(), reach(), prop::option::of(-80..80i64));
    let prefix = prop_oneof![2 => Just(0), 1 => 0..80usize, 1 => Just(usize::MAX)];
    (sizes, mask, prefix, prop::option::of((0.0..=1.0f64, 0.0..=1.0f64))).prop_map(
        |((len_q, len_kv), (causal, left, right, offset), prefix, range)| AttentionCase {
            causal,
            window: (left, right),
            prefix,
            alignment: offset.map_or(Alignment::BottomRight, Alignment::Offset),
            key_range: range.map(|(a, b)| range_of(len_kv, a, b)),
            ..AttentionCase::new(1, 2, len_q, len_kv, 16)
        },
    )
}

/// The keys between two shares of all.
fn range_of(len_kv: usize, a: f64, b: f64) -> Range<usize> {
    let at = |share: f64| (share * len_kv as f64) as usize;
    at(a.min(b))..at(a.max(b))
}

fn attention(case: &AttentionCase) -> Attention {
    let mask = if case.causal { Mask::causal() } else { Mask::none() };
    let mask = mask.window(case.window.0, case.window.1).prefix(case.prefix);
    Attention::new().mask(match case.alignment {
        Alignment::BottomRight => mask,
        Alignment::Offset(offset) => mask.offset(offset),
    })
}

fn spec(case: &AttentionCase, head_dim_v: usize) -> QkvSpec {
    let tensor = |len, head_dim| TensorSpec::contiguous(DType::F32, [1, 2, len, head_dim]).expect("a small tensor");
    let spec = QkvSpec::new(tensor(case.len_q, 16), tensor(case.len_kv, 16), tensor(case.len_kv, head_dim_v));
    match &case.key_range {
        Some(keys) => spec.key_range(keys.clone()),
        None => spec,
    }
}

/// Pairs of a query and a key that it sees, in one head.
fn visible_pairs(case: &AttentionCase) -> u64 {
    let pairs = (0..case.len_q).flat_map(|i| (0..case.len_kv).map(move |j| (i, j)));
    pairs.filter(|(i, j)| case.visible(0, *i, *j)).count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn flops_count_exactly_the_visible_pairs(case in case()) {
        let pairs = 2 * visible_pairs(&case);
        for target in [Target::Cpu, Target::Gpu(GpuTarget::A100)] {
            let plan = attention(&case).plan(&spec(&case, 24), &target).expect("a valid problem");
            prop_assert_eq!(plan.flops(), pairs * 2 * (16 + 24));
            let backward = BackwardSpec::new(spec(&case, 24));
            let plan = attention(&case).plan_backward(&backward, &target).expect("a valid problem");
            prop_assert_eq!(plan.flops(), pairs * 2 * (3 * 16 + 2 * 24));
        }
    }
}

/// A window says what causal says.
#[test]
fn equal_masks_count_equally() {
    let spec = spec(&AttentionCase::new(1, 2, 37, 50, 16), 16);
    let flops = |mask: Mask| Attention::new().mask(mask).plan(&spec, &Target::Cpu).expect("a valid problem").flops();
    assert_eq!(flops(Mask::causal()), flops(Mask::none().window(None, Some(0))));
    assert_eq!(flops(Mask::causal()), flops(Mask::causal().window(None, Some(7))));
    assert_eq!(flops(Mask::causal()), flops(Mask::causal().offset(13)));
    assert_eq!(flops(Mask::none()), flops(Mask::causal().prefix(50)));
    assert_eq!(flops(Mask::none()), flops(Mask::none().window(Some(usize::MAX), Some(usize::MAX))));
}

/// Packed sequences are counted as equally long, whatever they hold: a plan does not read lengths.
#[test]
fn packed_sequences_count_as_equally_long() {
    let tensor = TensorSpec::contiguous(DType::F32, [90, 2, 16]).expect("a small tensor");
    let lengths = LengthsSpec { count: 3, max: 60, total: 90 };
    let spec = QkvSpec::new(tensor, tensor, tensor).packed(lengths, lengths);
    let plan = Attention::new().mask(Mask::causal()).plan(&spec, &Target::Cpu).expect("a valid problem");
    assert_eq!(plan.flops(), 3 * 2 * (30 * 31 / 2) * 2 * 32);
}
