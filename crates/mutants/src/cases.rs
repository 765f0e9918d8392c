//! The problems that a kernel's mutants have to get right: the ones of the shared tests that reach every line of it.

use half::f16;
use warpfold::reference::{Alignment, AttentionCase, NormCase, SoftmaxCase};
use warpfold::variants::{Arch, Features, Operation, RowFeatures, Tile, Variant};
use warpfold::{Attention, DType, Device, Error, Layout, Mask, Qkv, Softmax, Tensor};

use crate::common::attention::merge::check_merge;
use crate::common::attention::{
    Attempt, Operand, check_nan_shows, check_negative_length, check_sequence_of_nans, check_weights_of_ones, drawn,
    dropout, sinks, slopes,
};
use crate::common::rows::{
    NormAttempt, NormOperand, SoftmaxAttempt, SoftmaxOperand, check_softmax_of_a_nan_beside_hidden_columns,
    check_softmax_of_special_values, drawn_rows, drawn_vector, longest_row,
};
use crate::common::{DTYPES, Placement, upload};

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
        (
            Operation::AttentionForward,
            Tile::Attention { head_dim, head_dim_v, features, .. }
            | Tile::AttentionHopper { head_dim, head_dim_v, features, .. },
        ) => {
            let new = |batch, heads, len_q, len_kv| AttentionCase {
                head_dim_v: head_dim_v as usize,
                ..AttentionCase::new(batch, heads, len_q, len_kv, head_dim as usize)
            };
            let is_hopper = variant.arch == Arch::Sm90a;
            let mut cases = attention(&new, variant.dtype, features, is_hopper);
            match features {
                // Whatever has no option of scores is the plain kernel's there.
                Features::General if is_hopper => {
                    cases.extend(attention_of_scores(&new, variant.dtype, &ALIGNED).into_iter().skip(1));
                }
                Features::Plain if is_hopper && head_dim > 64 => {
                    let problem = AttentionCase { causal: true, ..narrow(new(1, 2, 140, 90), 24) };
                    let attempt = Attempt::new(problem, variant.dtype, Placement::Padded);
                    cases.push(forward("a head_dim less than the kernel's", attempt));
                    cases.extend(special_values(variant.dtype, head_dim as usize));
                }
                Features::Plain => {
                    cases.extend(special_values(variant.dtype, head_dim as usize));
                    if variant.dtype == DType::F16 {
                        cases.push(case("more keys than a section of the grid may share", move |device, why| {
                            check_sections(device, head_dim as usize, why);
                        }));
                    }
                }
                Features::General => cases.extend(attention_of_scores(&new, variant.dtype, &ALL_PLACEMENTS)),
            }
            cases
        }
        (
            Operation::AttentionBackwardKeyValue | Operation::AttentionBackwardQuery,
            Tile::Attention { head_dim, head_dim_v, .. } | Tile::AttentionHopper { head_dim, head_dim_v, .. },
        ) => backward(variant, [head_dim as usize, head_dim_v as usize]),
        (Operation::AttentionBackwardBias, Tile::Attention { head_dim, .. }) => {
            backward_bias(variant.dtype, head_dim as usize)
        }
        (Operation::AttentionDelta, Tile::WarpRows { .. }) => backward_delta(variant.dtype),
        (Operation::AttentionBackwardSinks, Tile::WarpRows { .. }) => backward_sinks(),
        (Operation::AttentionMerge, Tile::WarpRows { .. }) => merge(variant.dtype),
        (Operation::SoftmaxForward, Tile::Rows { .. }) => softmax(variant, SoftmaxAttempt::check),
        (Operation::SoftmaxBackward, Tile::Rows { .. }) => softmax(variant, SoftmaxAttempt::check_backward),
        (Operation::NormForward, Tile::Rows { .. }) => norm(variant, NormAttempt::check),
        (Operation::NormBackward, Tile::Rows { .. }) => {
            let mut cases = norm(variant, NormAttempt::check_backward);
            cases.extend(sums_over_rows(variant));
            cases
        }
        (Operation::NormWeightGradients, Tile::Columns { .. }) => weight_gradients(),
        _ => panic!("no cases for {}: write some", variant.name()),
    }
}

/// A case of a batch, query heads, queries and keys.
type New<'a> = &'a dyn Fn(usize, usize, usize, usize) -> AttentionCase;

fn forward(why: &'static str, attempt: Attempt) -> Case {
    case(why, move |device, why| attempt.check(device, why))
}

/// What plain and general kernels have in common; the general ones with rows of no alignment, or, on Hopper, whose kernels
/// take aligned rows only, with a softcap.
fn attention(new: New<'_>, dtype: DType, features: Features, is_hopper: bool) -> Vec<Case> {
    let is_general = features == Features::General;
    let softcap = (is_general && is_hopper).then_some(30.0);
    let new = |batch, heads, len_q, len_kv| AttentionCase { softcap, ..new(batch, heads, len_q, len_kv) };
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
    let place = |placement| if is_general && !is_hopper { Placement::Misaligned } else { placement };
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
    let part = if is_general { narrow(part, 24) } else { part };
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

fn special_values(dtype: DType, head_dim: usize) -> [Case; 4] {
    let zeros = Attempt::new(AttentionCase::new(1, 1, 20, 100, head_dim), dtype, Placement::Contiguous);
    [
        case("a largest score of 0, and larger ones after it", move |device, why| {
            let mut numbers = zeros.numbers();
            numbers.k[..64 * head_dim].fill(0.0);
            let outcome = zeros.run_on(device, &numbers);
            let outcome = outcome.unwrap_or_else(|error| panic!("{why} on {device}: {error}"));
            zeros.judge_on(&outcome, &numbers).unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}"));
        }),
        case("a key of NaN", move |device, why| check_nan_shows(device, dtype, head_dim, why)),
        case("values of 1", move |device, why| check_weights_of_ones(device, dtype, head_dim, why)),
        case("a negative key length", move |device, why| check_negative_length(device, dtype, head_dim, why)),
    ]
}

/// Heads of so many keys that two of three are worked on together. All of a head's values are one number, and so are its
/// results.
fn check_sections(device: &Device, head_dim: usize, why: &str) {
    let (heads, len_q) = (3, 300);
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

const ALL_PLACEMENTS: [Placement; 4] =
    [Placement::Contiguous, Placement::Transposed, Placement::Misaligned, Placement::Padded];
const ALIGNED: [Placement; 3] = [Placement::Contiguous, Placement::Transposed, Placement::Padded];

/// What touches single scores and weights. Aligned rows are a way of their own through sm_80's general kernel.
fn attention_of_scores(new: New<'_>, dtype: DType, placements: &[Placement]) -> Vec<Case> {
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
    problems
        .into_iter()
        .zip(placements.iter().cycle())
        .map(|((why, problem), placement)| forward(why, Attempt::new(problem, dtype, *placement)))
        .collect()
}

/// Problems of the backward pass, which launches several kernels.
fn gradients(why: &'static str, attempt: Attempt, with_d_lse: bool) -> Case {
    case(why, move |device, why| attempt.check_backward(device, with_d_lse, why))
}

/// The gradients of q, k and v.
fn backward(variant: &Variant, [head_dim, head_dim_v]: [usize; 2]) -> Vec<Case> {
    let dtype = variant.dtype;
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
    // Hopper's plain kernels take what has no option of scores, its general ones the rest; neither takes rows of no alignment.
    let is_taken = |placement: Placement, problem: &AttentionCase| {
        let has_options = problem.softcap.is_some()
            || problem.slopes.is_some()
            || problem.bias.is_some()
            || problem.mask.is_some()
            || problem.dropout.is_some()
            || problem.prefix > 0;
        match variant.tile {
            Tile::AttentionHopper { features, .. } => {
                placement != Placement::Misaligned && has_options == (features == Features::General)
            }
            _ => true,
        }
    };
    let problems = problems.into_iter().filter(|(_, placement, problem)| is_taken(*placement, problem));
    let is_plain = matches!(variant.tile, Tile::AttentionHopper { features: Features::Plain, .. });
    let beside_nans = is_plain.then(|| {
        case("packed beside a sequence of NaN", move |device, why| check_sequence_of_nans(device, dtype, head_dim, why))
    });
    // Wide rows take their time; what they have of their own is no matter of the options.
    let numbered = problems.enumerate().take(if head_dim > 128 { 3 } else { usize::MAX });
    let new_case = |(index, (why, placement, problem)): (usize, _)| {
        gradients(why, Attempt::new(problem, dtype, placement), index % 2 == 0)
    };
    numbered.map(new_case).chain(beside_nans).collect()
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

/// What the problems of a kernel of rows are made of.
struct Ladder {
    dtype: DType,
    is_general: bool,
    /// The longest rows are shared by several blocks.
    has_segments: bool,
    /// More than one block takes.
    rows: usize,
    /// The longest row, or one that several blocks share.
    longest: usize,
    /// Threads without a whole vector and, where the kernel takes them, a row that ends inside of one.
    ragged: usize,
}

impl Ladder {
    fn new(variant: &Variant) -> Ladder {
        let Tile::Rows { rows_per_block, features, .. } = variant.tile else {
            panic!("{} has no rows", variant.name())
        };
        let longest = longest_row(variant);
        let slot = 16 / variant.dtype.size_bytes();
        let (rows, longest, ragged) = match (rows_per_block, features) {
            (1, _) => (3, longest + longest / 4, 2001),
            (_, RowFeatures::Whole) => (rows_per_block as usize + 3, longest, longest - 3 * slot),
            _ => (rows_per_block as usize + 3, longest, longest - 3),
        };
        let is_general = features == RowFeatures::General;
        Ladder { dtype: variant.dtype, is_general, has_segments: rows_per_block == 1, rows, longest, ragged }
    }

    /// Where rows lie that the kernel takes.
    fn place(&self, placement: Placement) -> Placement {
        if self.is_general { Placement::Misaligned } else { placement }
    }
}

/// Problems of softmax, checked forward or backward.
fn softmax(variant: &Variant, check: fn(&SoftmaxAttempt, &Device, &str)) -> Vec<Case> {
    let ladder = Ladder::new(variant);
    let Ladder { dtype, rows, longest, ragged, .. } = ladder;
    let plain =
        |shape: &[usize], placement| SoftmaxAttempt::new(SoftmaxCase::new(shape), dtype, ladder.place(placement));
    let log = |attempt: SoftmaxAttempt, scale| SoftmaxAttempt {
        case: SoftmaxCase { is_log: true, scale, ..attempt.case },
        ..attempt
    };
    let few = plain(&[3, ragged], Placement::Contiguous);
    let mut problems = vec![
        ("the longest rows", plain(&[rows, longest], Placement::Contiguous)),
        ("strided ragged rows", plain(&[2, 3, 2, ragged], Placement::Transposed)),
        ("the logarithm of padded rows", log(plain(&[rows, ragged], Placement::Padded), 1.0)),
        ("the logarithm of the longest rows", log(plain(&[3, longest], Placement::Contiguous), 0.75)),
        ("a temperature", SoftmaxAttempt { case: SoftmaxCase { scale: 1.5, ..few.case.clone() }, ..few.clone() }),
        ("in place", SoftmaxAttempt { in_place: true, ..plain(&[3, ragged], Placement::Padded) }),
    ];
    if dtype == DType::F32 {
        problems.push(("large values", SoftmaxAttempt { mean: 1e4, spread: 5.0, ..few }));
    }
    if ladder.has_segments {
        let apart = SoftmaxAttempt { spread: 1e4, ..plain(&[3, longest], Placement::Contiguous) };
        problems.push(("maxima of segments that are far apart", apart));
    }
    if ladder.is_general {
        // Masks and biases show in y only.
        let is_forward = variant.operation == Operation::SoftmaxForward;
        problems.extend(is_forward.then(|| softmax_options(&ladder)).into_iter().flatten());
        problems.push(("each tensor in a layout of its own", softmax_apart(&ladder)));
    }
    let mut cases: Vec<Case> =
        problems.into_iter().map(|(why, attempt)| case(why, move |device, why| check(&attempt, device, why))).collect();
    if ladder.is_general && dtype != DType::F32 && variant.operation == Operation::SoftmaxForward {
        cases.push(case("a row that ends with its memory", move |device, why| {
            check_softmax_at_the_end_of_memory(device, dtype, longest, why);
        }));
    }
    for is_log in [false, true] {
        if ladder.is_general && variant.operation == Operation::SoftmaxForward {
            cases.push(case("a NaN beside what is hidden", move |device, why| {
                check_softmax_of_a_nan_beside_hidden_columns(device, dtype, ragged, is_log, why);
            }));
        }
        cases.push(case("infinities and NaNs", move |device, why| {
            check_softmax_of_special_values(device, dtype, ragged, is_log, ladder.is_general, why);
        }));
    }
    cases
}

/// One row of equal numbers that begins within a word and ends with its memory: nothing beside it may be touched.
fn check_softmax_at_the_end_of_memory(device: &Device, dtype: DType, longest: usize, why: &str) {
    let columns = 1 << longest.ilog2();
    let output = || -> Result<Vec<f32>, Error> {
        let memory = upload(device, dtype, &vec![0.5; columns + 1], &[columns + 1])?;
        let x = memory.view().with_layout(Layout::strided(&[1, columns], &[columns, 1], 1)?)?;
        Softmax::new().forward(x)?.to_vec_f32()
    };
    let output = output().unwrap_or_else(|error| panic!("{why} on {device}: {error}"));
    let right = |value: &f32| *value == 1.0 / columns as f32;
    assert!(output.iter().all(right), "{why} on {device}: a weight is not one of {columns}");
}

/// What only general kernels compute.
fn softmax_options(ladder: &Ladder) -> Vec<(&'static str, SoftmaxAttempt)> {
    let Ladder { dtype, longest, ragged, .. } = *ladder;
    let shape = [2, 3, ragged];
    let plain = SoftmaxCase::new(&shape);
    let some = ragged / 3;
    let cases = [
        ("a bias of every element", SoftmaxCase { bias: drawn_rows(&shape), ..plain.clone() }),
        ("a bias of the columns", SoftmaxCase { bias: drawn_rows(&[ragged]), ..plain.clone() }),
        ("a bias of the rows", SoftmaxCase { bias: drawn_rows(&[2, 1, 1]), ..plain.clone() }),
        ("a mask of every element", SoftmaxCase { mask: drawn_rows(&shape), ..plain.clone() }),
        ("a mask of the columns", SoftmaxCase { mask: drawn_rows(&[2, 1, ragged]), ..plain.clone() }),
        ("a mask of the rows", SoftmaxCase { mask: drawn_rows(&[3, 1]), ..plain.clone() }),
        (
            "causal, and rows that see nothing",
            SoftmaxCase { causal: true, alignment: Alignment::Offset(-1), ..plain.clone() },
        ),
        ("causal to the last column", SoftmaxCase { causal: true, ..plain.clone() }),
        (
            "a window that begins and ends inside",
            SoftmaxCase {
                window: (Some(some), Some(5)),
                alignment: Alignment::Offset(2 * some as i64),
                ..plain.clone()
            },
        ),
        (
            "a prefix beside a window",
            SoftmaxCase {
                window: (Some(9), Some(0)),
                prefix: 11,
                alignment: Alignment::Offset(2 * some as i64),
                ..plain.clone()
            },
        ),
        (
            "a window open to the left, of rows before the first column",
            SoftmaxCase { window: (None, Some(4)), alignment: Alignment::Offset(-3), ..plain.clone() },
        ),
        (
            "a window open to the right",
            SoftmaxCase { window: (Some(9), None), alignment: Alignment::Offset(some as i64), ..plain.clone() },
        ),
        (
            "one bias and one byte of a mask for each of the longest rows",
            SoftmaxCase {
                bias: drawn_rows(&[2, 1, 1]),
                mask: drawn_rows(&[2, 1]),
                ..SoftmaxCase::new(&[2, 2, longest])
            },
        ),
        (
            "everything, in the longest rows",
            SoftmaxCase {
                scale: 0.75,
                is_log: true,
                bias: drawn_rows(&[1, longest]),
                mask: drawn_rows(&[2, 1, longest]),
                causal: true,
                window: (Some(longest / 3), None),
                prefix: 2,
                alignment: Alignment::Offset(longest as i64 - 2),
                ..SoftmaxCase::new(&[2, 3, longest])
            },
        ),
    ];
    let placements = [Placement::Contiguous, Placement::Transposed, Placement::Misaligned, Placement::Padded];
    let placed = cases.into_iter().zip(placements.into_iter().cycle()).enumerate();
    placed
        .map(|(index, ((why, case), placement))| {
            let bias_dtype = if index % 2 == 0 { DType::F32 } else { dtype };
            (
                why,
                SoftmaxAttempt { bias_dtype, in_place: index % 3 == 2, ..SoftmaxAttempt::new(case, dtype, placement) },
            )
        })
        .collect()
}

fn softmax_apart(ladder: &Ladder) -> SoftmaxAttempt {
    let shape = [2, 3, ladder.ragged];
    let case = SoftmaxCase { bias: drawn_rows(&shape), mask: drawn_rows(&shape), ..SoftmaxCase::new(&shape) };
    SoftmaxAttempt::new(case, ladder.dtype, Placement::Contiguous)
        .place(SoftmaxOperand::X, Placement::Padded)
        .place(SoftmaxOperand::Y, Placement::Misaligned)
        .place(SoftmaxOperand::Mask, Placement::Misaligned)
        .place(SoftmaxOperand::DX, Placement::Padded)
}

/// Problems of a norm, checked forward or backward.
fn norm(variant: &Variant, check: fn(&NormAttempt, &Device, &str)) -> Vec<Case> {
    let ladder = Ladder::new(variant);
    let Ladder { dtype, rows, longest, ragged, .. } = ladder;
    let vectors = |case| NormCase { weight: drawn_vector(), bias: drawn_vector(), ..case };
    let (layer, rms) = (NormCase::layer(ragged), NormCase::rms(ragged));
    let new =
        |case: NormCase, leading: &[usize], placement| NormAttempt::new(case, leading, dtype, ladder.place(placement));
    let few = |case: NormCase| new(case, &[3], Placement::Contiguous);
    let plain = few(vectors(layer.clone()));
    // Backward, plain kernels take rows of one distance only.
    let is_backward = variant.operation == Operation::NormBackward;
    let strided = if is_backward { Placement::Padded } else { Placement::Transposed };
    let mut attempts = vec![
        ("the longest rows", new(vectors(NormCase::layer(longest)), &[rows], Placement::Contiguous)),
        (
            "statistics of the longest rows that are not kept",
            NormAttempt { with_stats: false, ..new(vectors(NormCase::layer(longest)), &[3], Placement::Contiguous) },
        ),
        ("strided ragged rows", new(vectors(layer.clone()), &[2, 3, 2], strided)),
        ("RMS norm of padded rows", new(vectors(rms.clone()), &[rows], Placement::Padded)),
        ("no weight and no bias", few(layer.clone())),
        ("a weight without a bias", few(NormCase { weight: drawn_vector(), ..layer.clone() })),
        ("a bias without a weight", few(NormCase { bias: drawn_vector(), ..rms.clone() })),
        ("a zero-centred weight", few(NormCase { is_zero_centered: true, ..vectors(rms.clone()) })),
        ("a variance like eps", NormAttempt { mean: 0.0, spread: 0.003, ..few(layer.clone()) }),
        ("a mean square like eps", NormAttempt { mean: 0.0, spread: 0.001, with_stats: false, ..few(rms) }),
        (
            "a residual, and a gradient of the sum",
            NormAttempt { with_residual: true, with_d_sum: true, ..plain.clone() },
        ),
        (
            "a residual whose sum is not kept",
            NormAttempt { with_residual: true, with_sum: false, with_stats: false, ..plain.clone() },
        ),
    ];
    if dtype == DType::F32 {
        let offset = NormAttempt { mean: 100.0, spread: 0.01, is_tight: true, ..few(layer.clone()) };
        let recomputed = NormAttempt { with_stats: false, ..offset.clone() };
        if ladder.has_segments {
            let long = new(NormCase::layer(longest), &[6], Placement::Contiguous);
            attempts.push((
                "a large offset of several segments",
                NormAttempt { mean: 127.0, spread: 0.01, is_tight: true, ..long },
            ));
        }
        attempts.extend([("a large offset", offset), ("a large offset, again", recomputed)]);
    }
    if ladder.has_segments {
        attempts
            .push(("RMS norm of several segments", new(vectors(NormCase::rms(longest)), &[2], Placement::Contiguous)));
    }
    if ladder.is_general {
        attempts.extend(norm_options(&ladder, is_backward));
        if is_backward {
            // Rows of a part that begin at different places of a 16-byte vector.
            let uneven = NormAttempt::new(vectors(NormCase::layer(ragged)), &[5, 8], dtype, Placement::Transposed);
            attempts.push(("rows of uneven distance", uneven));
        }
    }
    let mut cases: Vec<Case> =
        attempts.into_iter().map(|(why, attempt)| case(why, move |device, why| check(&attempt, device, why))).collect();
    if dtype == DType::F32 && variant.operation == Operation::NormForward {
        let attempt = NormAttempt { spread: 0.01, with_residual: true, is_tight: true, ..few(layer) };
        cases.push(case("a large offset of the residual", move |device, why| {
            let mut numbers = attempt.numbers();
            numbers.residual.iter_mut().flatten().for_each(|value| *value = f64::from((*value + 127.0) as f32));
            let outcome = attempt.run_on(device, &numbers);
            let outcome = outcome.unwrap_or_else(|error| panic!("{why} on {device}: {error}"));
            let verdict = attempt.judge_on(&outcome, &numbers);
            verdict.unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}"));
        }));
    }
    cases
}

/// What only general kernels compute.
fn norm_options(ladder: &Ladder, is_backward: bool) -> Vec<(&'static str, NormAttempt)> {
    let Ladder { dtype, longest, ragged, .. } = *ladder;
    let of = |columns, dtype| {
        let case = NormCase { weight: drawn_vector(), bias: drawn_vector(), ..NormCase::layer(columns) };
        NormAttempt {
            with_residual: true,
            with_d_sum: true,
            with_d_residual: true,
            ..NormAttempt::new(case, &[2, 3], dtype, Placement::Misaligned)
        }
    };
    let dropped = |attempt: NormAttempt, probability| NormAttempt {
        case: NormCase { dropout: dropout(probability), ..attempt.case },
        ..attempt
    };
    let retyped = |operands: &[NormOperand], other| {
        operands.iter().fold(of(ragged, dtype), |attempt, operand| attempt.retype(*operand, other))
    };
    use NormOperand::{Bias, DResidual, DSum, DX, DY, Residual, Sum, Weight, X, Y};
    let apart = of(ragged, dtype)
        .place(X, Placement::Padded)
        .place(Weight, Placement::Padded)
        .place(Y, Placement::Transposed)
        .place(DY, Placement::Contiguous)
        .place(DX, Placement::Padded);
    // A kernel of a 16-bit type takes f32 for all but the rows that it normalises, or backward the sum and the gradient of y; that
    // of f32 takes everything.
    let is_f32 = dtype == DType::F32;
    let [one, other] = if is_f32 { [DType::F16, DType::BF16] } else { [DType::F32; 2] };
    let (results, inputs): (&[NormOperand], &[NormOperand]) = match (is_f32, is_backward) {
        (true, _) => (&[Y, Sum, DX, DResidual], &[X, DY, DSum]),
        (false, false) => (&[Y, Sum], &[]),
        (false, true) => (&[DX, DResidual], &[DSum]),
    };
    let inputs = retyped(inputs, one);
    let inputs = if is_f32 { inputs.retype(Residual, other).retype(Sum, other) } else { inputs };
    // Inputs of another phase than the results have, too.
    let inputs = inputs.place(X, Placement::Padded).place(DY, Placement::Padded);
    vec![
        ("dropout", dropped(NormAttempt { with_residual: false, ..of(ragged, dtype) }, 0.25)),
        ("dropout and a residual, in the longest rows", dropped(of(longest, dtype), 0.9)),
        (
            "dropout and statistics that are not kept",
            dropped(NormAttempt { with_stats: false, with_d_residual: false, ..of(longest, dtype) }, 0.5),
        ),
        ("parameters of another type", retyped(&[Weight, Bias], one)),
        ("parameters of another type each", retyped(&[Weight], one).retype(Bias, other)),
        ("results of another type", retyped(results, one)),
        ("inputs of another type each", inputs),
        ("each tensor in a layout of its own", apart),
    ]
}

/// More rows than there are parts for the gradients of weight and bias, so that a block adds up several rows.
fn sums_over_rows(variant: &Variant) -> Vec<Case> {
    let ladder = Ladder::new(variant);
    // A part has 16 times the rows of a block; of a row a block, three.
    let rows = if ladder.has_segments { 21 } else { 17 * (ladder.rows - 3) + 3 };
    let vectors = NormCase { weight: drawn_vector(), bias: drawn_vector(), ..NormCase::layer(ladder.ragged) };
    let attempt = NormAttempt::new(vectors, &[rows], ladder.dtype, ladder.place(Placement::Contiguous));
    vec![case("several rows for each block", move |device, why| attempt.check_backward(device, why))]
}

/// Few and many parts, few and many columns, of every type.
fn weight_gradients() -> Vec<Case> {
    let problems = [
        ("one row", [1, 300], DType::F32),
        ("many parts of few columns", [3000, 9], DType::F16),
        ("many parts of a row a block", [500, 1100], DType::BF16),
        ("columns of several blocks", [70, 1025], DType::F32),
    ];
    let mut cases = Vec::new();
    for (why, [rows, columns], dtype) in problems {
        for (with_weight, with_bias) in [(true, true), (true, false), (false, true)] {
            let norm = NormCase {
                weight: drawn_vector().filter(|_| with_weight),
                bias: drawn_vector().filter(|_| with_bias),
                ..NormCase::layer(columns)
            };
            let attempt = NormAttempt::new(norm, &[rows], dtype, Placement::Contiguous);
            cases.push(case(why, move |device, why| attempt.check_backward(device, why)));
        }
    }
    for dtype in DTYPES {
        let norm = NormCase { weight: drawn_vector(), bias: drawn_vector(), ..NormCase::layer(200) };
        let attempt = NormAttempt::new(norm, &[40], DType::F32, Placement::Contiguous);
        let attempt = attempt.retype(NormOperand::Weight, dtype).retype(NormOperand::Bias, DType::F32);
        cases.push(case("gradients of two types", move |device, why| attempt.check_backward(device, why)));
    }
    cases
}
