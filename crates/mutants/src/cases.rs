//! The problems that a kernel's mutants have to get right: the ones of the shared tests that reach every line of it.

use half::f16;
use warpfold::reference::{Alignment, AttentionCase};
use warpfold::variants::{Features, Operation, Tile, Variant};
use warpfold::{Attention, DType, Device, Error, Mask, Qkv, Tensor};

use crate::common::attention::merge::check_merge;
use crate::common::attention::{
    Attempt, Operand, check_negative_length, check_weights_of_ones, drawn, dropout, sinks, slopes,
};
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

/// The problems for a kernel; each is planned onto it, among others where a call launches several.
pub fn cases(variant: &Variant) -> Vec<Case> {
    match (variant.operation, variant.tile) {
        (Operation::AttentionForward, Tile::Attention { head_dim, head_dim_v, features, .. }) => {
            let new = |batch, heads, len_q, len_kv| AttentionCase {
                head_dim_v: head_dim_v as usize,
                ..AttentionCase::new(batch, heads, len_q, len_kv, head_dim as usize)
            };
            let mut cases = attention(&new, variant.dtype, features);
            match features {
                Features::Plain => {
                    cases.extend(special_values(variant.dtype, head_dim as usize));
                    if variant.dtype == DType::F16 {
                        cases.push(case("more keys than a section of the grid may share", move |device, why| {
                            check_sections(device, head_dim as usize, why);
                        }));
                    }
                }
                Features::General => cases.extend(attention_of_scores(&new, variant.dtype)),
            }
            cases
        }
        (
            Operation::AttentionBackwardKeyValue | Operation::AttentionBackwardQuery,
            Tile::Attention { head_dim, head_dim_v, .. },
        ) => backward(variant.dtype, head_dim as usize, head_dim_v as usize),
        (Operation::AttentionBackwardBias, Tile::Attention { head_dim, .. }) => {
            backward_bias(variant.dtype, head_dim as usize)
        }
        (Operation::AttentionDelta, Tile::WarpRows { .. }) => backward_delta(variant.dtype),
        (Operation::AttentionBackwardSinks, Tile::WarpRows { .. }) => backward_sinks(),
        (Operation::AttentionMerge, Tile::WarpRows { .. }) => merge(variant.dtype),
        (Operation::SoftmaxForward, Tile::Rows { .. }) => softmax(variant),
        (Operation::LayerNormForward, Tile::Rows { .. }) => layer_norm(variant),
        _ => panic!("no cases for {}: write some", variant.name()),
    }
}

/// A case of a batch, query heads, queries and keys.
type New<'a> = &'a dyn Fn(usize, usize, usize, usize) -> AttentionCase;

fn forward(why: &'static str, attempt: Attempt) -> Case {
    case(why, move |device, why| attempt.check(device, why))
}

/// What plain and general kernels have in common; the general ones with rows of no alignment.
fn attention(new: New<'_>, dtype: DType, features: Features) -> Vec<Case> {
    let causal = true;
    let problems = [
        (
            "causal, grouped heads, key lengths, ragged",
            Placement::Transposed,
            AttentionCase { heads_kv: 2, causal, key_lengths: Some(vec![150, 97]), ..new(2, 4, 140, 150) },
        ),
        (
            "an offset that hides all keys from most queries",
            Placement::Padded,
            AttentionCase { causal, alignment: Alignment::Offset(-150), ..new(1, 1, 200, 64) },
        ),
        (
            "key lengths, one of them 0",
            Placement::Contiguous,
            AttentionCase { key_lengths: Some(vec![0, 1, 64, 100]), ..new(4, 1, 20, 100) },
        ),
        ("causal, whole tiles", Placement::Contiguous, AttentionCase { causal, ..new(1, 1, 256, 256) }),
        ("no mask, one key over several tiles", Placement::Padded, new(1, 2, 129, 193)),
        ("scores far apart", Placement::Contiguous, AttentionCase { scale: Some(4.0), ..new(1, 1, 20, 70) }),
        (
            "maxima that grow over many tiles by more than f16 holds",
            Placement::Contiguous,
            AttentionCase { scale: Some(16.0), ..new(1, 1, 100, 600) },
        ),
        (
            "scores far below zero, of rows whose first key comes late",
            Placement::Contiguous,
            AttentionCase { scale: Some(30.0), window: (Some(0), Some(0)), ..new(1, 1, 20, 140) },
        ),
        (
            "a window that begins and ends inside of tiles",
            Placement::Contiguous,
            AttentionCase { window: (Some(70), Some(9)), ..new(1, 1, 140, 220) },
        ),
        (
            "a window of one key",
            Placement::Contiguous,
            AttentionCase { window: (Some(0), Some(0)), ..new(1, 1, 130, 130) },
        ),
        (
            "few queries of a group in one tile, under a window",
            Placement::Contiguous,
            AttentionCase { heads_kv: 2, causal, window: (Some(50), None), ..new(2, 6, 5, 130) },
        ),
        (
            "packed sequences, some without queries and some without keys",
            Placement::Transposed,
            AttentionCase {
                heads_kv: 1,
                causal,
                query_lengths: Some(vec![70, 0, 33, 1]),
                key_lengths: Some(vec![40, 12, 130, 0]),
                ..new(4, 2, 70, 130)
            },
        ),
        (
            "more packed sequences than lanes",
            Placement::Contiguous,
            many_sequences(AttentionCase { heads_kv: 1, ..new(40, 2, 5, 6) }),
        ),
        (
            "sinks, also of rows without keys",
            Placement::Contiguous,
            AttentionCase { sinks: sinks(2), causal, ..new(1, 2, 90, 70) },
        ),
    ];
    let place = |placement| if features == Features::General { Placement::Misaligned } else { placement };
    let mut cases: Vec<Case> = problems
        .into_iter()
        .map(|(why, placement, problem)| forward(why, Attempt::new(problem, dtype, place(placement))))
        .collect();
    let apart = Attempt::new(AttentionCase { heads_kv: 1, ..new(1, 2, 35, 50) }, dtype, Placement::Contiguous)
        .place(Operand::Q, Placement::Padded)
        .place(Operand::V, Placement::Padded)
        .place(Operand::Output, place(Placement::Transposed));
    cases.push(forward("each tensor in a layout of its own", apart));
    let part = AttentionCase { key_range: Some(20..77), causal, ..new(1, 2, 40, 90) };
    let part = if features == Features::General { narrow(part, 24) } else { part };
    let part = Attempt::new(part, dtype, place(Placement::Transposed));
    cases.push(case("a part of the keys, in f32", move |device, why| part.check_partial(device, why)));
    cases
}

/// The same with fewer columns than the kernel's.
fn narrow(problem: AttentionCase, less: usize) -> AttentionCase {
    AttentionCase { head_dim: problem.head_dim - less, head_dim_v: problem.head_dim_v - less, ..problem }
}

/// The same with sequences of different lengths, some of them empty.
fn many_sequences(problem: AttentionCase) -> AttentionCase {
    let lengths = |factor, len| Some((0..problem.batch).map(|sequence| sequence * factor % (len + 1)).collect());
    AttentionCase { query_lengths: lengths(5, problem.len_q), key_lengths: lengths(3, problem.len_kv), ..problem }
}

fn special_values(dtype: DType, head_dim: usize) -> [Case; 3] {
    let zeros = Attempt::new(AttentionCase::new(1, 1, 20, 100, head_dim), dtype, Placement::Contiguous);
    [
        case("a largest score of 0, and larger ones after it", move |device, why| {
            let mut numbers = zeros.numbers();
            numbers.k[..64 * head_dim].fill(0.0);
            let outcome = zeros.run_on(device, &numbers);
            let outcome = outcome.unwrap_or_else(|error| panic!("{why} on {device}: {error}"));
            zeros.judge_on(&outcome, &numbers).unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}"));
        }),
        case("values of 1", move |device, why| check_weights_of_ones(device, dtype, head_dim, why)),
        case("a negative key length", move |device, why| check_negative_length(device, dtype, head_dim, why)),
    ]
}

/// Heads of so many keys that two of three are worked on together. All of a head's values are one number, and so are its
/// results.
fn check_sections(device: &Device, head_dim: usize, why: &str) {
    let (heads, len_q) = (3, 130);
    let len_kv = (16 << 20) / 2 / (2 * head_dim * size_of::<f16>());
    let number = |head: usize| f16::from_f32(1.0 + head as f32);
    let output = || -> Result<Vec<f32>, Error> {
        let q = Tensor::from_slice(device, &vec![f16::ONE; heads * len_q * head_dim], [1, heads, len_q, head_dim])?;
        let k = Tensor::from_slice(device, &vec![f16::ONE; heads * len_kv * head_dim], [1, heads, len_kv, head_dim])?;
        let values: Vec<f16> = (0..heads).flat_map(|head| vec![number(head); len_kv * head_dim]).collect();
        let v = Tensor::from_slice(device, &values, [1, heads, len_kv, head_dim])?;
        let mask = Mask::causal().window(Some(20), None);
        Attention::new().mask(mask).forward(&Qkv::new(&q, &k, &v))?.output.to_vec_f32()
    };
    let output = output().unwrap_or_else(|error| panic!("{why} on {device}: {error}"));
    let right = |(row, values): (usize, &[f32])| values.iter().all(|value| *value == number(row / len_q).to_f32());
    assert!(output.chunks(head_dim).enumerate().all(right), "{why} on {device}: a row is not its head's number");
}

/// What touches single scores and weights. Rows are aligned here, which is a way of its own through the general kernel.
fn attention_of_scores(new: New<'_>, dtype: DType) -> Vec<Case> {
    let problems = [
        ("a head_dim less than the kernel's", AttentionCase { causal: true, ..narrow(new(1, 2, 70, 90), 24) }),
        ("softcap", AttentionCase { softcap: Some(0.75), ..new(1, 1, 40, 90) }),
        ("ALiBi", AttentionCase { slopes: slopes(4), causal: true, ..new(2, 2, 70, 90) }),
        ("ALiBi of a group with few queries", AttentionCase { heads_kv: 1, slopes: slopes(3), ..new(1, 3, 5, 70) }),
        ("a bias of every score", AttentionCase { bias: drawn([2, 2, 70, 81]), ..new(2, 2, 70, 81) }),
        (
            "a bias of the head and key, of a group with few queries",
            AttentionCase { heads_kv: 1, bias: drawn([1, 3, 1, 70]), ..new(2, 3, 9, 70) },
        ),
        ("a mask of every score", AttentionCase { mask: drawn([2, 2, 70, 81]), ..new(2, 2, 70, 81) }),
        ("a mask of the query", AttentionCase { mask: drawn([1, 1, 70, 1]), ..new(1, 2, 70, 40) }),
        (
            "a prefix beside a window",
            AttentionCase {
                causal: true,
                window: (Some(6), None),
                prefix: 70,
                key_lengths: Some(vec![300, 30]),
                ..new(2, 1, 70, 300)
            },
        ),
        ("dropout", AttentionCase { dropout: dropout(0.3), causal: true, ..new(2, 2, 70, 90) }),
        (
            "dropout of a group with few queries",
            AttentionCase { heads_kv: 1, dropout: dropout(0.5), ..new(2, 4, 5, 70) },
        ),
        (
            "everything, packed",
            AttentionCase {
                heads_kv: 2,
                causal: true,
                window: (Some(60), Some(2)),
                prefix: 5,
                query_lengths: Some(vec![40, 7]),
                key_lengths: Some(vec![41, 90]),
                bias: drawn([2, 1, 40, 90]),
                mask: drawn([1, 4, 40, 90]),
                softcap: Some(3.0),
                slopes: slopes(8),
                sinks: sinks(4),
                dropout: dropout(0.2),
                ..new(2, 4, 40, 90)
            },
        ),
    ];
    let placements = [Placement::Contiguous, Placement::Transposed, Placement::Misaligned, Placement::Padded];
    problems
        .into_iter()
        .zip(placements.into_iter().cycle())
        .map(|((why, problem), placement)| forward(why, Attempt::new(problem, dtype, placement)))
        .collect()
}

/// Problems of the backward pass, which launches several kernels.
fn gradients(why: &'static str, attempt: Attempt, with_d_lse: bool) -> Case {
    case(why, move |device, why| attempt.check_backward(device, with_d_lse, why))
}

/// The gradients of q, k and v.
fn backward(dtype: DType, head_dim: usize, head_dim_v: usize) -> Vec<Case> {
    let new = |batch, heads, len_q, len_kv| AttentionCase {
        head_dim_v,
        ..AttentionCase::new(batch, heads, len_q, len_kv, head_dim)
    };
    let causal = true;
    let problems = [
        (
            "causal, grouped heads, key lengths, ragged",
            Placement::Transposed,
            AttentionCase { heads_kv: 2, causal, key_lengths: Some(vec![80, 49]), ..new(2, 4, 70, 80) },
        ),
        ("no mask, one over several tiles", Placement::Padded, new(1, 1, 129, 129)),
        ("causal, whole tiles", Placement::Contiguous, AttentionCase { causal, ..new(1, 1, 128, 128) }),
        (
            "rows and keys that see nothing",
            Placement::Contiguous,
            AttentionCase { causal, alignment: Alignment::Offset(-40), ..new(1, 1, 90, 70) },
        ),
        (
            "a window that begins and ends inside of tiles",
            Placement::Contiguous,
            AttentionCase { window: (Some(70), Some(9)), ..new(1, 1, 90, 150) },
        ),
        (
            "packed sequences, some without queries and some without keys",
            Placement::Transposed,
            AttentionCase {
                heads_kv: 1,
                causal,
                query_lengths: Some(vec![70, 0, 33, 1]),
                key_lengths: Some(vec![40, 12, 70, 0]),
                ..new(4, 2, 70, 70)
            },
        ),
        ("more packed sequences than lanes", Placement::Contiguous, many_sequences(new(40, 1, 5, 6))),
        ("rows of no alignment", Placement::Misaligned, AttentionCase { heads_kv: 1, causal, ..new(1, 2, 70, 50) }),
        ("few queries of a group", Placement::Contiguous, AttentionCase { heads_kv: 1, causal, ..new(1, 5, 9, 70) }),
        (
            "a head_dim less than the kernel's",
            Placement::Contiguous,
            AttentionCase { head_dim: head_dim - 24, head_dim_v: head_dim_v - 8, causal, ..new(1, 1, 50, 70) },
        ),
        ("softcap", Placement::Contiguous, AttentionCase { softcap: Some(0.75), ..new(1, 1, 40, 70) }),
        (
            "ALiBi and bias",
            Placement::Contiguous,
            AttentionCase { slopes: slopes(4), bias: drawn([1, 2, 50, 70]), ..new(2, 2, 50, 70) },
        ),
        (
            "a mask, and a prefix beside a window",
            Placement::Contiguous,
            AttentionCase {
                causal,
                window: (Some(30), None),
                prefix: 10,
                mask: drawn([1, 1, 90, 90]),
                ..new(1, 1, 90, 90)
            },
        ),
        (
            "dropout and sinks, grouped",
            Placement::Contiguous,
            AttentionCase { heads_kv: 1, dropout: dropout(0.3), sinks: sinks(2), causal, ..new(2, 2, 50, 70) },
        ),
        (
            "everything, packed",
            Placement::Contiguous,
            AttentionCase {
                heads_kv: 1,
                causal,
                prefix: 5,
                key_range: Some(3..66),
                query_lengths: Some(vec![40, 7]),
                key_lengths: Some(vec![41, 70]),
                mask: drawn([1, 2, 40, 70]),
                softcap: Some(3.0),
                slopes: slopes(2),
                dropout: dropout(0.2),
                ..new(2, 2, 40, 70)
            },
        ),
    ];
    // Wide rows take their time; what they have of their own is no matter of the options.
    let numbered = problems.into_iter().enumerate().take(if head_dim > 128 { 3 } else { usize::MAX });
    let new_case = |(index, (why, placement, problem)): (usize, _)| {
        gradients(why, Attempt::new(problem, dtype, placement), index % 2 == 0)
    };
    numbered.map(new_case).collect()
}

/// The gradient of a bias that is broadcast in every way.
fn backward_bias(dtype: DType, head_dim: usize) -> Vec<Case> {
    let new = |batch, heads, len_q, len_kv| AttentionCase::new(batch, heads, len_q, len_kv, head_dim);
    let causal = true;
    let problems = [
        ("a bias of every score", AttentionCase { bias: drawn([2, 2, 70, 50]), causal, ..new(2, 2, 70, 50) }),
        ("a bias of the query and key", AttentionCase { bias: drawn([1, 1, 70, 40]), ..new(2, 2, 70, 40) }),
        ("a bias of the keys", AttentionCase { bias: drawn([1, 1, 1, 70]), heads_kv: 1, ..new(2, 3, 70, 70) }),
        (
            "a bias of the head and key, key lengths and scores that nobody sees",
            AttentionCase {
                bias: drawn([1, 2, 1, 90]),
                key_lengths: Some(vec![20, 55]),
                window: (Some(20), Some(0)),
                ..new(2, 2, 40, 90)
            },
        ),
        (
            "a bias of packed sequences, with dropout, softcap and a mask",
            AttentionCase {
                bias: drawn([2, 1, 40, 50]),
                mask: drawn([1, 2, 40, 50]),
                query_lengths: Some(vec![40, 7]),
                key_lengths: Some(vec![9, 50]),
                softcap: Some(3.0),
                dropout: dropout(0.2),
                ..new(2, 2, 40, 50)
            },
        ),
        ("a head_dim less than the kernel's", {
            let problem = AttentionCase { bias: drawn([1, 2, 40, 50]), slopes: slopes(2), ..new(1, 2, 40, 50) };
            AttentionCase { head_dim: head_dim - 24, head_dim_v: head_dim - 8, ..problem }
        }),
    ];
    let placements = [Placement::Contiguous, Placement::Transposed, Placement::Misaligned, Placement::Padded];
    let placed = problems.into_iter().zip(placements.into_iter().cycle());
    placed.map(|((why, problem), placement)| gradients(why, Attempt::new(problem, dtype, placement), true)).collect()
}

/// What the gradients of a row have in common.
fn backward_delta(dtype: DType) -> Vec<Case> {
    let new = |why, head_dim_v, placement, with_d_lse| {
        let problem = AttentionCase { head_dim_v, ..AttentionCase::new(2, 3, 19, 20, 32) };
        gradients(why, Attempt::new(problem, dtype, placement), with_d_lse)
    };
    let packed = AttentionCase {
        query_lengths: Some(vec![3, 0, 17]),
        key_lengths: Some(vec![20, 4, 9]),
        ..AttentionCase::new(3, 2, 17, 20, 32)
    };
    vec![
        new("with the gradient of lse", 64, Placement::Contiguous, true),
        new("without the gradient of lse", 64, Placement::Transposed, false),
        new("short misaligned rows", 8, Placement::Misaligned, true),
        new("long rows", 256, Placement::Padded, true),
        gradients("packed sequences", Attempt::new(packed, dtype, Placement::Transposed), true),
    ]
}

fn backward_sinks() -> Vec<Case> {
    let new =
        |batch, heads, len_q| AttentionCase { sinks: sinks(heads), ..AttentionCase::new(batch, heads, len_q, 20, 32) };
    let packed =
        AttentionCase { query_lengths: Some(vec![3, 0, 17]), key_lengths: Some(vec![20, 4, 9]), ..new(3, 2, 17) };
    let empty = AttentionCase { key_lengths: Some(vec![20, 0]), ..new(2, 4, 50) };
    let nothing = AttentionCase { sinks: Some(vec![f64::NEG_INFINITY, 0.5, -1.0, 2.0]), ..empty.clone() };
    let problems = [
        ("fewer rows than a block has threads", new(1, 3, 7), DType::F16),
        ("many rows", new(3, 2, 150), DType::BF16),
        ("rows without keys", empty, DType::F32),
        ("rows without keys and a sink of -inf", nothing, DType::F32),
        ("packed sequences", packed, DType::F16),
    ];
    let new_case = |(why, problem, dtype)| gradients(why, Attempt::new(problem, dtype, Placement::Contiguous), true);
    problems.into_iter().map(new_case).collect()
}

fn merge(dtype: DType) -> Vec<Case> {
    let new = |why, parts, with_sinks, head_dim| {
        case(why, move |device, why| check_merge(device, dtype, parts, with_sinks, head_dim, why))
    };
    vec![
        new("one part and sinks", 1, true, 64),
        new("two parts", 2, false, 128),
        new("rows of no whole 16 bytes", 3, true, 13),
        new("as many parts as there can be", 16, true, 256),
    ]
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
