//! Attention, forward and backward, on every device against the float64 oracle.

use crate::common::attention::merge::check_merge;
use crate::common::attention::{
    Attempt, Operand, Outcome, check_nan_shows, check_negative_length, check_sequence_of_nans, check_weights_of_ones,
    drawn, dropout, sinks, slopes,
};
use crate::common::{DTYPES, HOPPER, PLACEMENTS, Placement, attention_devices, mask_bytes, small, upload, values};
use warpfold::reference::{self, Alignment, AttentionCase, Broadcast};
use warpfold::{
    Attention, AttentionForward, AttentionGradients, BackwardInputs, DType, Device, Layout, Qkv, Tensor, TensorRef,
};

/// (why it is there, the case)
type Grid = Vec<(&'static str, AttentionCase)>;

/// Sizes around the tiles of 32, 48, 64 and 128 rows and keys.
fn sizes([head_dim, head_dim_v]: [usize; 2]) -> Grid {
    let case = |batch, heads, len_q, len_kv| AttentionCase {
        head_dim_v,
        ..AttentionCase::new(batch, heads, len_q, len_kv, head_dim)
    };
    vec![
        ("one query, one key", case(1, 1, 1, 1)),
        ("less than one tensor-core tile", case(1, 2, 3, 5)),
        ("one over a tile of queries and of keys", case(1, 1, 129, 65)),
        ("one under a tile of queries and of keys", case(1, 1, 127, 63)),
        ("one over smaller tiles", case(1, 1, 65, 49)),
        ("one under smaller tiles", case(1, 1, 63, 47)),
        ("several key tiles, ragged", case(1, 2, 113, 257)),
        ("several query tiles, few keys", case(2, 1, 257, 3)),
        ("no keys at all", case(1, 2, 5, 0)),
    ]
}

/// Which keys a query sees by its position, by lengths, and by what is packed together; how heads are grouped.
fn visibility([head_dim, head_dim_v]: [usize; 2]) -> Grid {
    let case = |batch, heads, len_q, len_kv| AttentionCase {
        head_dim_v,
        ..AttentionCase::new(batch, heads, len_q, len_kv, head_dim)
    };
    let causal = |case| AttentionCase { causal: true, ..case };
    let offset = |offset, case| AttentionCase { alignment: Alignment::Offset(offset), ..case };
    let window = |left, right, case| AttentionCase { window: (left, right), ..case };
    let keys = |lengths: &[usize], case| AttentionCase { key_lengths: Some(lengths.to_vec()), ..case };
    let packed = |heads, queries: &[usize], keys: &[usize]| AttentionCase {
        query_lengths: Some(queries.to_vec()),
        key_lengths: Some(keys.to_vec()),
        ..case(queries.len(), heads, queries.iter().copied().max().unwrap(), keys.iter().copied().max().unwrap())
    };
    let grouped = |heads_kv, case| AttentionCase { heads_kv, ..case };
    vec![
        ("causal, square, ragged", causal(case(1, 1, 130, 130))),
        ("causal, more queries than keys: early rows see nothing", causal(case(1, 1, 140, 70))),
        ("causal, more keys than queries", causal(case(1, 1, 33, 200))),
        ("causal, top-left", offset(0, causal(case(1, 1, 70, 150)))),
        ("causal, an offset that hides whole blocks", offset(-150, causal(case(1, 1, 200, 64)))),
        ("causal, an offset that hides everything", offset(-70, causal(case(1, 1, 70, 30)))),
        ("causal, an offset that hides nothing", offset(200, causal(case(1, 1, 40, 70)))),
        ("a window of one key", window(Some(0), Some(0), case(1, 1, 70, 70))),
        ("a window of one key that most queries do not reach", window(Some(0), Some(0), case(1, 1, 90, 20))),
        ("a window to the left only", window(Some(20), None, case(1, 1, 70, 140))),
        ("a window to the right only", window(None, Some(9), case(1, 1, 140, 70))),
        ("a sliding window under a causal mask", causal(window(Some(40), None, case(1, 1, 150, 150)))),
        ("a causal mask cuts a window's right side off", causal(window(Some(5), Some(30), case(1, 1, 70, 90)))),
        ("a window to both sides, top-left", offset(0, window(Some(70), Some(10), case(1, 1, 65, 200)))),
        ("a window over everything", window(Some(1000), Some(usize::MAX), case(1, 1, 50, 70))),
        ("a window past the keys", offset(100, window(Some(30), Some(30), case(1, 1, 60, 90)))),
        ("key lengths, one of them 0", keys(&[0, 1, 64, 100], case(4, 1, 20, 100))),
        ("key lengths under a causal mask", keys(&[37, 90], causal(case(2, 1, 90, 90)))),
        ("key lengths under a window", keys(&[100, 49], window(Some(30), Some(3), case(2, 1, 100, 100)))),
        ("a range of keys", AttentionCase { key_range: Some(10..61), ..case(1, 2, 33, 100) }),
        (
            "a range of keys under a causal mask",
            AttentionCase { key_range: Some(64..120), ..causal(case(1, 1, 90, 130)) },
        ),
        ("a range of no keys", AttentionCase { key_range: Some(7..7), ..case(1, 1, 20, 30) }),
        (
            "a range of keys past some key lengths",
            AttentionCase { key_range: Some(40..90), ..keys(&[100, 30, 70], case(3, 1, 20, 100)) },
        ),
        ("grouped queries", grouped(2, case(1, 6, 40, 70))),
        ("one key head for all queries", grouped(1, causal(case(1, 4, 64, 64)))),
        ("decoding: one query a head, all heads of a group in one tile", grouped(1, case(2, 8, 1, 130))),
        ("a few queries of an odd group, causal", grouped(1, causal(case(1, 5, 13, 90)))),
        (
            "a few queries of a group under a window and key lengths",
            grouped(2, keys(&[100, 63], window(Some(9), Some(2), case(2, 6, 7, 100)))),
        ),
        ("packed sequences", packed(2, &[5, 70, 1, 33], &[5, 70, 1, 33])),
        ("packed sequences, causal", causal(packed(1, &[65, 1, 64, 20], &[65, 1, 64, 20]))),
        ("packed, causal, other numbers of keys than of queries", causal(packed(1, &[3, 80, 40], &[90, 30, 41]))),
        ("packed, some without queries and some without keys", packed(1, &[0, 30, 20, 0, 4], &[10, 0, 66, 0, 3])),
        ("packed, the last ones empty", causal(packed(1, &[40, 0, 0], &[50, 7, 0]))),
        ("packed, under a window", window(Some(12), Some(4), packed(1, &[60, 2, 70], &[60, 9, 50]))),
        ("packed, grouped, few queries", grouped(1, causal(packed(4, &[1, 3, 2, 1], &[70, 20, 2, 129])))),
        ("packed, a range of keys", AttentionCase { key_range: Some(5..45), ..packed(1, &[30, 30], &[70, 20]) }),
        ("packed, top-left", offset(0, causal(packed(1, &[30, 50], &[60, 20])))),
    ]
}

/// What happens to single scores and weights.
fn scores([head_dim, head_dim_v]: [usize; 2]) -> Grid {
    let case = |batch, heads, len_q, len_kv| AttentionCase {
        head_dim_v,
        ..AttentionCase::new(batch, heads, len_q, len_kv, head_dim)
    };
    let causal = |case| AttentionCase { causal: true, ..case };
    let bias = |shape, case| AttentionCase { bias: drawn(shape), ..case };
    let mask = |shape, case| AttentionCase { mask: drawn(shape), ..case };
    let prefix = |prefix, case| AttentionCase { prefix, ..causal(case) };
    let with_slopes = |count, case| AttentionCase { slopes: slopes(count), ..case };
    let with_sinks = |case: AttentionCase| AttentionCase { sinks: sinks(case.heads_q), ..case };
    let dropped = |probability, case| AttentionCase { dropout: dropout(probability), ..case };
    let keys = |lengths: &[usize], case| AttentionCase { key_lengths: Some(lengths.to_vec()), ..case };
    let grouped = |heads_kv, case| AttentionCase { heads_kv, ..case };
    vec![
        ("a custom scale", AttentionCase { scale: Some(0.5), ..case(1, 1, 20, 70) }),
        ("scores far apart", AttentionCase { scale: Some(4.0), ..case(1, 1, 20, 70) }),
        (
            "maxima that grow over many tiles by more than f16 holds",
            AttentionCase { scale: Some(16.0), ..case(1, 1, 100, 600) },
        ),
        ("a softcap below most scores", AttentionCase { softcap: Some(0.75), ..case(1, 1, 40, 70) }),
        (
            "a softcap that bends large scores",
            AttentionCase { softcap: Some(20.0), scale: Some(0.75), ..causal(case(1, 1, 70, 70)) },
        ),
        ("a prefix inside of the keys", prefix(37, case(1, 1, 70, 90))),
        (
            "a prefix over whole tiles, for queries that see nothing else",
            AttentionCase { alignment: Alignment::Offset(-100), ..prefix(70, case(1, 1, 65, 130)) },
        ),
        ("a prefix past the keys", prefix(1000, case(1, 1, 40, 50))),
        (
            "a prefix beside a sliding window",
            AttentionCase { window: (Some(6), Some(0)), ..prefix(3, case(1, 1, 140, 140)) },
        ),
        (
            "a prefix past a key length and a range",
            AttentionCase { key_range: Some(10..60), ..keys(&[20, 70], prefix(30, case(2, 1, 50, 70))) },
        ),
        ("a bias of the keys", bias([1, 1, 1, 70], case(2, 2, 33, 70))),
        ("a bias of the sequence, query and key", bias([2, 1, 35, 66], case(2, 2, 35, 66))),
        ("a bias of the head, query and key", bias([1, 2, 65, 33], case(2, 2, 65, 33))),
        ("a bias of every score", bias([2, 2, 20, 81], case(2, 2, 20, 81))),
        ("a bias of the query and key", bias([1, 1, 70, 65], causal(case(2, 1, 70, 65)))),
        ("a bias of the sequence, head and key", bias([2, 3, 1, 40], keys(&[40, 9], case(2, 3, 20, 40)))),
        ("a bias of the sequence and key under GQA", bias([2, 1, 1, 50], grouped(1, case(2, 3, 9, 50)))),
        ("a bias of -inf, for some rows on all keys", bias_of_infinities(case(1, 2, 70, 66))),
        ("a mask of the keys", mask([1, 1, 1, 90], case(2, 1, 33, 90))),
        ("a mask of every score", mask([2, 2, 40, 65], case(2, 2, 40, 65))),
        ("a mask of the query", mask([1, 1, 40, 1], case(1, 2, 40, 33))),
        ("a mask of the sequence, query and key, causal", mask([2, 1, 50, 50], causal(case(2, 2, 50, 50)))),
        ("a mask of one element that shows everything", mask_of(true, case(1, 1, 20, 30))),
        ("a mask of one element that hides everything", mask_of(false, case(1, 1, 20, 30))),
        ("a mask that hides some rows and some keys from everyone", mask_of_stripes(case(1, 2, 70, 80))),
        ("ALiBi", with_slopes(2, case(1, 2, 65, 80))),
        ("ALiBi under a causal mask, grouped", with_slopes(4, grouped(2, causal(case(1, 4, 40, 60))))),
        ("ALiBi, a slope a sequence and head", with_slopes(4, case(2, 2, 30, 50))),
        (
            "ALiBi far from the keys",
            AttentionCase { alignment: Alignment::Offset(1000), ..with_slopes(1, case(1, 1, 20, 70)) },
        ),
        ("sinks", with_sinks(case(1, 4, 30, 70))),
        ("sinks of rows without keys", with_sinks(causal(keys(&[50, 0], case(2, 3, 70, 50))))),
        ("sinks and no keys at all", with_sinks(case(1, 2, 5, 0))),
        ("dropout of a few weights", dropped(0.1, case(2, 2, 33, 70))),
        ("dropout of most weights", dropped(0.9, causal(case(1, 1, 65, 65)))),
        ("dropout of a group with few queries", dropped(0.5, grouped(1, case(2, 4, 5, 70)))),
    ]
}

/// Options together, as models use them or as they get into each other's way.
fn combinations([head_dim, head_dim_v]: [usize; 2]) -> Grid {
    let case = |batch, heads, len_q, len_kv| AttentionCase {
        head_dim_v,
        ..AttentionCase::new(batch, heads, len_q, len_kv, head_dim)
    };
    vec![
        (
            "softcap under a sliding window, grouped",
            AttentionCase {
                heads_kv: 1,
                causal: true,
                window: (Some(30), None),
                softcap: Some(5.0),
                ..case(1, 2, 90, 90)
            },
        ),
        (
            "sinks under a sliding window, few queries",
            AttentionCase {
                heads_kv: 1,
                causal: true,
                window: (Some(50), None),
                sinks: sinks(4),
                ..case(2, 4, 3, 130)
            },
        ),
        (
            "bias, mask, window and key lengths",
            AttentionCase {
                window: (Some(40), Some(20)),
                key_lengths: Some(vec![66, 31]),
                bias: drawn([1, 2, 70, 66]),
                mask: drawn([2, 1, 1, 66]),
                ..case(2, 2, 70, 66)
            },
        ),
        (
            "packed and grouped, with dropout, ALiBi and sinks",
            AttentionCase {
                heads_kv: 1,
                causal: true,
                query_lengths: Some(vec![40, 0, 7, 33]),
                key_lengths: Some(vec![40, 5, 70, 20]),
                slopes: slopes(8),
                sinks: sinks(2),
                dropout: dropout(0.25),
                ..case(4, 2, 40, 70)
            },
        ),
        (
            "packed, with bias and mask up to the longest sequence",
            AttentionCase {
                query_lengths: Some(vec![9, 50]),
                key_lengths: Some(vec![64, 20]),
                bias: drawn([2, 1, 50, 64]),
                mask: drawn([1, 2, 1, 64]),
                ..case(2, 2, 50, 64)
            },
        ),
        (
            "everything",
            AttentionCase {
                heads_kv: 2,
                scale: Some(0.125),
                causal: true,
                window: (Some(50), Some(3)),
                prefix: 5,
                alignment: Alignment::Offset(20),
                key_lengths: Some(vec![70, 41]),
                key_range: Some(2..66),
                bias: drawn([2, 1, 40, 70]),
                mask: drawn([1, 4, 40, 70]),
                softcap: Some(3.0),
                slopes: slopes(4),
                sinks: sinks(4),
                dropout: dropout(0.2),
                ..case(2, 4, 40, 70)
            },
        ),
    ]
}

/// A mask of one element.
fn mask_of(visible: bool, case: AttentionCase) -> AttentionCase {
    AttentionCase { mask: Some(Broadcast { shape: [1; 4], values: vec![visible] }), ..case }
}

/// A mask with rows that see nothing, alone and together, and keys that nobody sees.
fn mask_of_stripes(case: AttentionCase) -> AttentionCase {
    let visible = |i: usize, j: usize| i % 7 != 3 && !(32..50).contains(&i) && j % 5 != 1 && !(10..30).contains(&j);
    let values = (0..case.len_q).flat_map(|i| (0..case.len_kv).map(move |j| visible(i, j))).collect();
    AttentionCase { mask: Some(Broadcast { shape: [1, 1, case.len_q, case.len_kv], values }), ..case }
}

/// A bias that hides keys as other libraries do: by -inf, for some rows everywhere.
fn bias_of_infinities(case: AttentionCase) -> AttentionCase {
    let hidden = |i: usize, j: usize| i % 9 == 4 || (48..64).contains(&i) || j < 20 || (i + j).is_multiple_of(3);
    let value = |i, j| if hidden(i, j) { f64::NEG_INFINITY } else { 0.25 * (j % 4) as f64 };
    let values = (0..case.len_q).flat_map(|i| (0..case.len_kv).map(move |j| value(i, j))).collect();
    AttentionCase { bias: Some(Broadcast { shape: [1, 1, case.len_q, case.len_kv], values }), ..case }
}

/// Runs the cases forward and backward. Each one is computed in every `share`-th type; which, goes on from case to case and
/// from `turn` to `turn`.
fn check(grid: Grid, share: usize, turn: usize) {
    for device in attention_devices() {
        for (index, (why, case)) in grid.iter().enumerate() {
            if small() && case.rows() * case.len_kv > 10_000 {
                continue;
            }
            let is_hopper = device.to_string() == HOPPER;
            for (number, dtype) in DTYPES.into_iter().enumerate() {
                let is_its_turn = match is_hopper {
                    // Each case once: f32 runs the kernels of all GPUs there, and the 16-bit types have one source.
                    true => number > 0 && (number + index + turn).is_multiple_of(2),
                    false => (number + index + turn).is_multiple_of(share),
                };
                if is_its_turn {
                    let attempt = Attempt::new(case.clone(), dtype, Placement::Contiguous);
                    attempt.check(&device, why);
                    attempt.check_backward(&device, (index + number).is_multiple_of(2), why);
                }
            }
        }
    }
}

/// Everything in every type.
fn check_fully(head_dims: [usize; 2]) {
    check([sizes(head_dims), visibility(head_dims), scores(head_dims), combinations(head_dims)].concat(), 1, 0);
}

/// Everything, each case in one type: for the head dims that have kernels of their own.
fn check_in_turn(head_dims: [usize; 2], turn: usize) {
    check([sizes(head_dims), visibility(head_dims), scores(head_dims), combinations(head_dims)].concat(), 3, turn);
}

/// A third of everything, each case in one type: for the head dims that a larger kernel pads. Three turns make the whole.
fn check_in_part(head_dims: [usize; 2], turn: usize) {
    let all = [sizes(head_dims), visibility(head_dims), scores(head_dims), combinations(head_dims)].concat();
    // The types go round once more each time that a case does.
    check(all.into_iter().skip(turn % 3).step_by(3).collect(), 3, turn / 3);
}

#[test]
fn head_dim_32_agrees_with_the_oracle() {
    check_in_turn([32, 32], 0);
}

#[test]
fn head_dim_64_agrees_with_the_oracle() {
    check_fully([64, 64]);
}

#[test]
fn head_dim_96_agrees_with_the_oracle() {
    check_in_turn([96, 96], 1);
}

#[test]
fn head_dim_128_agrees_with_the_oracle() {
    check_in_turn([128, 128], 2);
}

#[test]
fn head_dim_192_agrees_with_the_oracle() {
    check_in_turn([192, 192], 0);
}

#[test]
fn head_dim_192_with_128_of_v_agrees_with_the_oracle() {
    check_in_turn([192, 128], 1);
}

#[test]
fn head_dim_256_agrees_with_the_oracle() {
    check_in_turn([256, 256], 2);
}

#[test]
fn padded_head_dims_agree_with_the_oracle() {
    for (turn, head_dim) in [8, 40, 80, 104, 160, 224].into_iter().enumerate() {
        check_in_part([head_dim, head_dim], turn);
    }
}

#[test]
fn another_head_dim_of_v_agrees_with_the_oracle() {
    for (turn, head_dims) in [[64, 128], [128, 64], [40, 200]].into_iter().enumerate() {
        check_in_part(head_dims, turn + 6);
    }
}

/// On the CPU, which takes any.
#[test]
fn odd_head_dims_agree_with_the_oracle_on_the_cpu() {
    for (head_dim, head_dim_v) in [(5, 7), (41, 100), (1, 1), (300, 3)] {
        let case = AttentionCase {
            head_dim_v,
            causal: true,
            bias: drawn([1, 2, 40, 50]),
            ..AttentionCase::new(2, 2, 40, 50, head_dim)
        };
        for dtype in DTYPES {
            let attempt = Attempt::new(case.clone(), dtype, Placement::Misaligned);
            attempt.check(&Device::cpu(), "any head_dim");
            attempt.check_backward(&Device::cpu(), true, "any head_dim");
        }
    }
}

#[test]
fn strides_and_alignments_agree_with_the_oracle() {
    let plain = |head_dim| AttentionCase { heads_kv: 1, causal: true, ..AttentionCase::new(2, 2, 37, 75, head_dim) };
    let general =
        |head_dim| AttentionCase { bias: drawn([2, 1, 37, 75]), mask: drawn([1, 2, 37, 75]), ..plain(head_dim) };
    let packed = |head_dim| AttentionCase {
        query_lengths: Some(vec![37, 20]),
        key_lengths: Some(vec![11, 75]),
        ..plain(head_dim)
    };
    for device in attention_devices() {
        for (index, placement) in PLACEMENTS.into_iter().enumerate() {
            for (number, case) in
                [plain(64), general(64), packed(64), plain(96), plain(200), general(128)].into_iter().enumerate()
            {
                let attempt = Attempt::new(case, DTYPES[(index + number) % 3], placement);
                attempt.check(&device, "strides");
                attempt.check_backward(&device, true, "strides");
            }
        }
        // Each tensor placed differently from the others.
        for turn in 0..4 {
            let mut attempt = Attempt::new(general(64), DTYPES[turn % 3], Placement::Contiguous);
            let mixed = [Placement::Transposed, Placement::Padded, Placement::Misaligned, Placement::Contiguous];
            attempt.placements = std::array::from_fn(|index| mixed[(index + turn + index / 4) % 4]);
            attempt.check(&device, "each tensor in a layout of its own");
            attempt.check_backward(&device, false, "each tensor in a layout of its own");
        }
        // One tensor alone that no whole accesses reach.
        for operand in [
            Operand::Q,
            Operand::K,
            Operand::V,
            Operand::Bias,
            Operand::Output,
            Operand::DOutput,
            Operand::DQ,
            Operand::DK,
            Operand::DV,
            Operand::DBias,
        ] {
            let case = AttentionCase { bias: drawn([1, 1, 35, 50]), ..AttentionCase::new(1, 2, 35, 50, 64) };
            let attempt = Attempt::new(case, DType::F16, Placement::Contiguous).place(operand, Placement::Misaligned);
            attempt.check(&device, "one misaligned tensor");
            attempt.check_backward(&device, true, "one misaligned tensor");
        }
    }
}

fn strided<'a>(tensor: &'a Tensor, shape: [usize; 4], strides: [usize; 4]) -> TensorRef<'a> {
    let layout = Layout::strided(&shape, &strides, 0).expect("a small tensor");
    tensor.view().with_layout(layout).expect("the layout is within the memory")
}

/// What all heads share may be one piece of memory with a stride of 0, and so may what a bias repeats. A mask may lie in
/// memory by columns.
#[test]
fn repeated_and_transposed_inputs_give_the_bits_of_their_copies() {
    let (heads, len, head_dim) = (3, 70, 64);
    let [q, k, v] = [1, 2, 3].map(|seed| values(seed, len * head_dim, 0.3, 1.0, DType::F16));
    let bias = values(4, len, 0.3, 1.0, DType::F16);
    let mask: Vec<f64> = mask_bytes(5, len * len).into_iter().map(f64::from).collect();
    let columns: Vec<f64> = (0..len * len).map(|at| mask[at % len * len + at / len]).collect();
    for device in attention_devices() {
        // There are no tensor maps of repeated heads: Hopper runs the kernels of all GPUs for them.
        let as_copied = match device.to_string() == HOPPER {
            true => "emulator:sm_80".parse().expect("there is one beside that of Hopper"),
            false => device.clone(),
        };
        let place = |device, dtype, values: &[f64], copies| {
            upload(device, dtype, &values.repeat(copies), &[values.len() * copies]).expect("a small tensor")
        };
        let run = |inputs: &Qkv<'_>| -> Result<Vec<Vec<f32>>, warpfold::Error> {
            let attention = Attention::new();
            let AttentionForward { output, lse } = attention.forward(inputs)?;
            let gradients = attention.backward(inputs, &BackwardInputs::new(&output, &lse, &output))?;
            let AttentionGradients { d_q, d_k, d_v, d_bias, .. } = gradients;
            let d_bias = d_bias.expect("there is a bias");
            [output, lse, d_q, d_k, d_v, d_bias].iter().map(Tensor::to_vec_f32).collect()
        };
        let shape = [1, heads, len, head_dim];
        let scores = [1, heads, len, len];
        let copies = [&q, &k, &v].map(|values| place(&as_copied, DType::F16, values, heads));
        let [all_q, all_k, all_v] =
            copies.each_ref().map(|tensor| strided(tensor, shape, [0, len * head_dim, head_dim, 1]));
        let all_bias = place(&as_copied, DType::F16, &bias, heads * len);
        let all_mask = place(&as_copied, DType::U8, &mask, heads);
        let copied = Qkv::new(all_q, all_k, all_v)
            .bias(strided(&all_bias, scores, [0, len * len, len, 1]))
            .mask(strided(&all_mask, scores, [0, len * len, len, 1]));
        let once = [&q, &k, &v].map(|values| place(&device, DType::F16, values, 1));
        let [q, k, v] = once.each_ref().map(|tensor| strided(tensor, shape, [0, 0, head_dim, 1]));
        let (bias, mask) = (place(&device, DType::F16, &bias, 1), place(&device, DType::U8, &columns, 1));
        let repeated =
            Qkv::new(q, k, v).bias(strided(&bias, scores, [0, 0, 0, 1])).mask(strided(&mask, scores, [0, 0, 1, len]));
        let (copied, repeated) = (run(&copied), run(&repeated));
        let repeated = repeated.unwrap_or_else(|error| panic!("repeated inputs on {device}: {error}"));
        assert!(copied.expect("a valid case") == repeated, "a stride of 0 gives other bits on {device}");
    }
}

/// Kernels go by the alignment, so that rows that are aligned all give the same bits. Others agree with the oracle only.
#[test]
fn aligned_layouts_give_the_same_bits() {
    for device in attention_devices() {
        let case = AttentionCase { heads_kv: 1, causal: true, ..AttentionCase::new(2, 2, 70, 90, 64) };
        let run = |placement| {
            let attempt = Attempt::new(case.clone(), DType::F16, placement);
            both_ways(&attempt, &device)
        };
        let first = run(Placement::Contiguous);
        for placement in [Placement::Transposed, Placement::Padded] {
            assert!(run(placement) == first, "{placement:?} gives other bits on {device}");
        }
    }
}

/// Forward and backward pass; panics where a call fails.
fn both_ways(attempt: &Attempt, device: &Device) -> (Outcome, reference::AttentionGradients) {
    let outcome = attempt.run(device).unwrap_or_else(|error| panic!("forward on {device}: {error}\n{attempt:?}"));
    let gradients = attempt.run_backward(device, true);
    (outcome, gradients.unwrap_or_else(|error| panic!("backward on {device}: {error}\n{attempt:?}")))
}

/// Problems that take different ways through the kernels, for what has to hold on all of them.
fn samples(head_dim: usize) -> Grid {
    let case = |batch, heads, len_q, len_kv| AttentionCase::new(batch, heads, len_q, len_kv, head_dim);
    vec![
        ("no options", case(3, 2, 150, 100)),
        (
            "a sliding window and grouped heads",
            AttentionCase { heads_kv: 1, causal: true, window: (Some(40), None), ..case(2, 4, 13, 130) },
        ),
        (
            "options that touch single scores",
            AttentionCase {
                heads_kv: 1,
                causal: true,
                prefix: 7,
                key_lengths: Some(vec![90, 55]),
                bias: drawn([2, 1, 70, 90]),
                mask: drawn([1, 2, 70, 90]),
                softcap: Some(4.0),
                slopes: slopes(4),
                sinks: sinks(2),
                ..case(2, 2, 70, 90)
            },
        ),
        (
            "packed sequences",
            AttentionCase {
                causal: true,
                query_lengths: Some(vec![70, 1, 0, 33]),
                key_lengths: Some(vec![70, 40, 20, 33]),
                ..case(4, 2, 70, 70)
            },
        ),
    ]
}

/// A row's bits depend on its own inputs only: not on the batch, the other heads, the other queries, or what is packed
/// beside its sequence.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    for device in attention_devices() {
        for (turn, head_dim) in [64, 192].into_iter().enumerate() {
            for (index, (why, case)) in samples(head_dim).into_iter().enumerate() {
                let attempt = Attempt::new(case, DTYPES[(index + turn) % 3], Placement::Contiguous);
                let numbers = attempt.numbers();
                let case = &numbers.case;
                let whole = attempt.run(&device).expect("a valid case");
                let last = case.batch - 1;
                for (sequence, head, i) in [(0, 0, 0), (0, 1, 12), (last, 0, case.query_len(last) - 1), (1, 1, 0)] {
                    let query = numbers.query(sequence, head, i);
                    let alone = Attempt { case: query.case.clone(), ..attempt.clone() };
                    let alone = alone.run_on(&device, &query).expect("a valid case");
                    let row = (sequence * case.heads_q + head) * case.len_q + i;
                    let expected = Outcome {
                        output: whole.output[row * case.head_dim_v..][..case.head_dim_v].to_vec(),
                        lse: vec![whole.lse[row]],
                    };
                    assert!(alone == expected, "{why}: row {:?} on {device}\n{attempt:?}", (sequence, head, i));
                }
            }
        }
    }
}

/// The results of a sequence do not depend on how many there are, nor on their order: neither forward nor backward.
#[test]
fn sequences_do_not_depend_on_the_batch() {
    for device in attention_devices() {
        for (index, (why, mut case)) in samples(64).into_iter().enumerate() {
            // A gradient that is summed over the batch depends on it.
            (case.bias, case.sinks) = (None, None);
            let attempt = Attempt::new(case, DTYPES[index % 3], Placement::Contiguous);
            let whole = both_ways(&attempt, &device);
            let one = attempt.numbers().select(&[1]);
            let alone = Attempt { case: one.case.clone(), ..attempt.clone() };
            let outcome = alone.run_on(&device, &one).expect("a valid case");
            let gradients = alone.run_backward_on(&device, true, &one).expect("a valid case");
            let part = |values: &[f64]| {
                let size = values.len() / attempt.case.batch;
                values[size..2 * size].to_vec()
            };
            assert!(part(&whole.0.output) == outcome.output && part(&whole.0.lse) == outcome.lse, "{why} on {device}");
            let expected = [&whole.1.d_q, &whole.1.d_k, &whole.1.d_v].map(|gradient| part(gradient));
            assert!(expected == [gradients.d_q, gradients.d_k, gradients.d_v], "{why}, backward on {device}");
        }
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    for device in attention_devices() {
        for (why, mut case) in samples(64) {
            case.dropout = dropout(0.3);
            let attempt = Attempt::new(case, DType::BF16, Placement::Contiguous);
            assert!(both_ways(&attempt, &device) == both_ways(&attempt, &device), "{why} on {device}");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_the_bits() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("some threads");
        let attempts = samples(64).into_iter().map(|(_, case)| Attempt::new(case, DType::F32, Placement::Contiguous));
        pool.install(|| attempts.map(|attempt| both_ways(&attempt, &Device::cpu())).collect::<Vec<_>>())
    };
    assert!(run(1) == run(3));
}

#[cfg(feature = "emulator")]
#[test]
fn the_number_of_sms_does_not_change_the_bits() {
    use warpfold::GpuTarget;
    use warpfold::emulator::EmulatorBuilder;
    use warpfold::variants::Arch;
    let build = |num_sms| EmulatorBuilder::new(Arch::Sm80).target(GpuTarget { num_sms, ..GpuTarget::A100 }).build();
    let (small, large) = match (build(1), build(132)) {
        (Ok(small), Ok(large)) => (small, large),
        (Err(error), _) | (_, Err(error)) => return crate::common::skipped("the number of SMs", error),
    };
    for (why, case) in samples(64) {
        let attempt = Attempt::new(case, DType::F16, Placement::Contiguous);
        assert!(both_ways(&attempt, &small) == both_ways(&attempt, &large), "{why}");
    }
}

/// Some keys at a time, merged: the sinks come in last.
#[test]
fn split_keys_agree_with_the_oracle() {
    let case = |batch, heads, len_q, len_kv, head_dim| AttentionCase::new(batch, heads, len_q, len_kv, head_dim);
    let splits: [(&str, AttentionCase, &[usize]); 7] = [
        ("two halves", case(1, 2, 33, 130, 64), &[65]),
        ("parts that some rows see nothing of", AttentionCase { causal: true, ..case(1, 1, 90, 90, 128) }, &[30, 64]),
        (
            "a part without keys, and sinks",
            AttentionCase { sinks: sinks(4), heads_kv: 2, key_lengths: Some(vec![70, 0]), ..case(2, 4, 5, 100, 96) },
            &[20, 20, 70],
        ),
        (
            "packed sequences",
            AttentionCase {
                query_lengths: Some(vec![9, 0, 40]),
                key_lengths: Some(vec![70, 3, 20]),
                causal: true,
                ..case(3, 2, 40, 70, 64)
            },
            &[10, 64],
        ),
        (
            "options that touch single scores",
            AttentionCase {
                bias: drawn([1, 2, 40, 90]),
                slopes: slopes(2),
                softcap: Some(5.0),
                sinks: sinks(2),
                dropout: dropout(0.2),
                head_dim_v: 72,
                ..case(1, 2, 40, 90, 160)
            },
            &[11, 50],
        ),
        ("parts of a range", AttentionCase { key_range: Some(5..80), ..case(1, 1, 20, 90, 256) }, &[33]),
        ("no keys at all", AttentionCase { sinks: sinks(2), ..case(1, 2, 3, 0, 32) }, &[0]),
    ];
    for device in attention_devices() {
        for (index, (why, case, cuts)) in splits.iter().enumerate() {
            for placement in [Placement::Contiguous, Placement::Transposed] {
                let dtype = DTYPES[(index + placement as usize) % 3];
                Attempt::new(case.clone(), dtype, placement).check_split(&device, cuts, why);
            }
        }
    }
}

#[test]
fn merging_agrees_with_the_oracle() {
    for device in attention_devices() {
        for dtype in DTYPES {
            check_merge(&device, dtype, 1, true, 64, "rounding and sinks alone");
            check_merge(&device, dtype, 2, false, 128, "two parts");
            check_merge(&device, dtype, 3, true, 13, "rows of no whole 16 bytes");
            check_merge(&device, dtype, 16, false, 256, "as many parts as there can be");
            check_merge(&device, dtype, 5, true, 40, "rows of less than a warp's width");
        }
    }
}

#[test]
fn a_negative_length_is_no_length() {
    for device in attention_devices() {
        for dtype in DTYPES {
            check_negative_length(&device, dtype, 64, "unchecked lengths");
        }
    }
}

#[test]
fn nan_stays_in_its_sequence() {
    for device in attention_devices() {
        for (dtype, head_dim) in [(DType::F32, 64), (DType::F16, 64), (DType::BF16, 128), (DType::F16, 256)] {
            check_sequence_of_nans(&device, dtype, head_dim, "packed sequences");
        }
    }
}

#[test]
fn nan_shows_in_the_rows_that_see_it() {
    for device in attention_devices() {
        for dtype in DTYPES {
            for head_dim in [64, 128] {
                check_nan_shows(&device, dtype, head_dim, "a key of NaN");
            }
        }
    }
}

#[test]
fn means_of_ones_are_one() {
    for device in attention_devices() {
        for dtype in [DType::F16, DType::BF16] {
            for head_dim in [32, 96] {
                check_weights_of_ones(&device, dtype, head_dim, "values of 1");
            }
        }
    }
}
