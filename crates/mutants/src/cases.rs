//! The problems that a kernel's mutants have to get right: the ones of the shared tests that reach every line of it.

use warpfold::reference::{Alignment, AttentionCase};
use warpfold::variants::{Features, Operation, Tile, Variant};
use warpfold::{DType, Device};

use crate::common::attention::{Attempt, check_negative_length, check_weights_of_ones};
use crate::common::rows::{RowsAttempt, check_softmax_of_special_values};
use crate::common::{PLACEMENTS, Placement};

/// One problem.
pub struct Case {
    /// Why it is there.
    pub why: &'static str,
    /// Panics, as a test does, where the result is not the oracle's.
    pub check: Box<dyn Fn(&Device) + Send + Sync>,
}

fn case(why: &'static str, check: impl Fn(&Device, &'static str) + Send + Sync + 'static) -> Case {
    Case { why, check: Box::new(move |device| check(device, why)) }
}

/// The problems for a kernel; each is planned onto it.
pub fn cases(variant: &Variant) -> Vec<Case> {
    match (variant.operation, variant.tile) {
        (Operation::AttentionForward, Tile::Attention { head_dim, features, .. }) => {
            attention(variant.dtype, head_dim as usize, features)
        }
        (Operation::SoftmaxForward, Tile::Rows { .. }) => softmax(variant),
        (Operation::LayerNormForward, Tile::Rows { .. }) => layer_norm(variant),
        _ => panic!("no cases for {}: write some", variant.name()),
    }
}

fn attention(dtype: DType, head_dim: usize, features: Features) -> Vec<Case> {
    let new = |batch, heads, len_q, len_kv| AttentionCase::new(batch, heads, len_q, len_kv, head_dim);
    let causal = Some(Alignment::BottomRight);
    let problems = [
        (
            "causal, grouped heads, key lengths, ragged",
            Placement::Transposed,
            AttentionCase { heads_kv: 2, causal, key_lengths: Some(vec![150, 97]), ..new(2, 4, 140, 150) },
        ),
        (
            "an offset that hides all keys from most queries",
            Placement::Padded,
            AttentionCase { causal: Some(Alignment::Offset(-150)), ..new(1, 1, 200, 64) },
        ),
        (
            "key lengths, one of them 0",
            Placement::Contiguous,
            AttentionCase { key_lengths: Some(vec![0, 1, 64, 100]), ..new(4, 1, 20, 100) },
        ),
        ("causal, whole tiles", Placement::Contiguous, AttentionCase { causal, ..new(1, 1, 256, 256) }),
        ("no mask, one key over several tiles", Placement::Padded, new(1, 2, 129, 193)),
        ("scores far apart", Placement::Contiguous, AttentionCase { scale: Some(4.0), ..new(1, 1, 20, 70) }),
    ];
    let mut cases: Vec<Case> = problems
        .into_iter()
        .map(|(why, placement, problem)| {
            let placement = if features == Features::General { Placement::Misaligned } else { placement };
            let attempt = Attempt::new(problem, dtype, placement);
            case(why, move |device, why| {
                attempt.check(device, why);
            })
        })
        .collect();
    let mut apart = Attempt::new(AttentionCase { heads_kv: 1, ..new(1, 2, 35, 50) }, dtype, Placement::Contiguous);
    apart.placements = [Placement::Padded, Placement::Contiguous, Placement::Padded, Placement::Transposed];
    if features == Features::General {
        apart.placements[3] = Placement::Misaligned;
    }
    cases.push(case("each tensor in a layout of its own", move |device, why| {
        apart.check(device, why);
    }));
    if features == Features::Plain {
        cases.push(case("values of 1", move |device, why| check_weights_of_ones(device, dtype, head_dim, why)));
        cases.push(case("a negative key length", move |device, why| {
            check_negative_length(device, dtype, head_dim, why);
        }));
    }
    cases
}

/// Row lengths that a kernel takes: the longest one, and one that ends inside of a 16-byte slot.
fn columns(variant: &Variant) -> (usize, usize) {
    let longest = variant.columns_max().map_or(40_000, |max| max as usize);
    (longest, longest - 3)
}

fn softmax(variant: &Variant) -> Vec<Case> {
    let dtype = variant.dtype;
    let (longest, ragged) = columns(variant);
    let mixed = RowsAttempt {
        placements: [Placement::Transposed, Placement::Padded],
        ..RowsAttempt::new(&[2, 3, 2, ragged], dtype, Placement::Transposed)
    };
    let apart = RowsAttempt {
        placements: [Placement::Contiguous, Placement::Misaligned],
        ..RowsAttempt::new(&[3, ragged], dtype, Placement::Contiguous)
    };
    let mut cases = vec![
        rows("the longest misaligned rows", RowsAttempt::new(&[6, longest], dtype, Placement::Misaligned)),
        rows("strided ragged rows", mixed),
        rows("aligned rows to misaligned ones", apart),
        case("infinities and NaNs", move |device, why| check_softmax_of_special_values(device, dtype, ragged, why)),
    ];
    if dtype == DType::F32 {
        let large =
            RowsAttempt { mean: 1e4, spread: 5.0, ..RowsAttempt::new(&[3, ragged], dtype, Placement::Contiguous) };
        cases.push(rows("large values", large));
    }
    cases
}

fn rows(why: &'static str, attempt: RowsAttempt) -> Case {
    case(why, move |device, why| attempt.check_softmax(device, why))
}

fn layer_norm(variant: &Variant) -> Vec<Case> {
    let dtype = variant.dtype;
    let (longest, ragged) = columns(variant);
    let contiguous = RowsAttempt::new(&[3, ragged], dtype, Placement::Contiguous);
    let mixed = RowsAttempt {
        placements: [PLACEMENTS[1], PLACEMENTS[2]],
        ..RowsAttempt::new(&[2, 3, 2, ragged], dtype, Placement::Transposed)
    };
    let norm = |why, attempt: RowsAttempt, with_weight, with_bias| {
        case(why, move |device, why| attempt.check_layer_norm(device, with_weight, with_bias, why))
    };
    let longest = RowsAttempt::new(&[6, longest], dtype, Placement::Misaligned);
    let mut cases = vec![
        norm("the longest misaligned rows", longest, true, true),
        norm("strided ragged rows", mixed, true, true),
        norm("a weight without a bias", contiguous.clone(), true, false),
        norm("a bias without a weight", contiguous.clone(), false, true),
        norm("a variance like eps", RowsAttempt { mean: 0.0, spread: 0.003, ..contiguous.clone() }, false, false),
    ];
    if dtype == DType::F32 {
        let offset = RowsAttempt { mean: 100.0, spread: 0.01, ..contiguous };
        cases.push(norm("a large offset", offset, false, false));
    }
    cases
}
