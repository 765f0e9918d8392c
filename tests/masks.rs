//! `Mask`'s bounds and FLOP count against the oracle's own `visible`.

use proptest::prelude::*;
use warpfold::reference::{Alignment, AttentionCase};
use warpfold::{Attention, DType, Mask, QkvSpec, Target, TensorSpec};

proptest! {
    #[test]
    fn flops_count_exactly_the_visible_pairs(
        len_q in 1..60usize,
        len_kv in 0..60usize,
        offset in prop::option::of(-80..80i64),
        causal: bool,
    ) {
        let mut case = AttentionCase::new(1, 2, len_q, len_kv, 16);
        let mut mask = if causal { Mask::causal() } else { Mask::none() };
        if let Some(offset) = offset {
            mask = mask.offset(offset);
        }
        if causal {
            case.causal = Some(offset.map_or(Alignment::BottomRight, Alignment::Offset));
        }
        let pairs = (0..len_q).flat_map(|i| (0..len_kv).map(move |j| (i, j)));
        let visible = pairs.filter(|(i, j)| case.visible(0, *i, *j)).count() as u64;
        let spec = |len| TensorSpec::contiguous(DType::F32, [1, 2, len, 16]).expect("a small tensor");
        let plan = Attention::new().mask(mask).plan(&QkvSpec::new(spec(len_q), spec(len_kv), spec(len_kv)), &Target::Cpu);
        prop_assert_eq!(plan.expect("a valid problem").flops(), visible * 2 * 2 * 32);
    }
}
