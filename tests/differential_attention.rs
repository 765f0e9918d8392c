//! Attention on every device against the float64 oracle.

mod common;

use common::attention::{Attempt, check_negative_length, check_weights_of_ones};
use common::{PLACEMENTS, Placement, devices, dtypes_of_attention, small};
use warpfold::reference::{Alignment, AttentionCase};
use warpfold::{DType, Device};

/// (why it is there, the case)
fn grid(head_dim: usize) -> Vec<(&'static str, AttentionCase)> {
    let case = |batch, heads, len_q, len_kv| AttentionCase::new(batch, heads, len_q, len_kv, head_dim);
    let bottom_right = Some(Alignment::BottomRight);
    let mut grid = vec![
        ("one query, one key", case(1, 1, 1, 1)),
        ("less than one tensor-core tile", case(1, 2, 3, 5)),
        ("one over a tile of queries and of keys", case(1, 1, 129, 65)),
        ("one under a tile of queries and of keys", case(1, 1, 127, 47)),
        ("several key tiles, ragged", case(2, 2, 113, 257)),
        ("causal, square, ragged", AttentionCase { causal: bottom_right, ..case(1, 2, 130, 130) }),
        (
            "causal, more queries than keys: early rows see nothing",
            AttentionCase { causal: bottom_right, ..case(1, 1, 140, 70) },
        ),
        ("causal, more keys than queries", AttentionCase { causal: bottom_right, ..case(1, 1, 33, 200) }),
        ("causal, top-left", AttentionCase { causal: Some(Alignment::Offset(0)), ..case(1, 1, 70, 200) }),
        (
            "causal, an offset that hides whole blocks",
            AttentionCase { causal: Some(Alignment::Offset(-150)), ..case(1, 1, 200, 64) },
        ),
        ("grouped queries", AttentionCase { heads_kv: 2, ..case(2, 6, 40, 70) }),
        ("one key head for all queries", AttentionCase { heads_kv: 1, causal: bottom_right, ..case(1, 4, 64, 64) }),
        ("key lengths, one of them 0", AttentionCase { key_lengths: Some(vec![0, 1, 64, 100]), ..case(4, 1, 20, 100) }),
        (
            "key lengths under a causal mask",
            AttentionCase { key_lengths: Some(vec![37, 90]), causal: bottom_right, ..case(2, 2, 90, 90) },
        ),
        ("no keys at all", case(1, 2, 5, 0)),
        ("a custom scale", AttentionCase { scale: Some(0.5), ..case(1, 1, 20, 70) }),
        ("scores far apart", AttentionCase { scale: Some(4.0), ..case(1, 1, 20, 70) }),
    ];
    if small() {
        grid.retain(|(_, case)| case.len_q * case.len_kv <= 10_000);
    }
    grid
}

fn check_head_dim(head_dim: usize) {
    for device in devices() {
        for (why, case) in grid(head_dim) {
            for dtype in dtypes_of_attention(&device) {
                Attempt::new(case.clone(), *dtype, Placement::Contiguous).check(&device, why);
            }
        }
    }
}

#[test]
fn head_dim_32_agrees_with_the_oracle() {
    check_head_dim(32);
}

#[test]
fn head_dim_64_agrees_with_the_oracle() {
    check_head_dim(64);
}

#[test]
fn head_dim_96_agrees_with_the_oracle() {
    check_head_dim(96);
}

#[test]
fn head_dim_128_agrees_with_the_oracle() {
    check_head_dim(128);
}

#[test]
fn strides_and_alignments_agree_with_the_oracle() {
    for device in devices() {
        for head_dim in [32, 64, 96, 128] {
            for placement in PLACEMENTS {
                let case = AttentionCase {
                    heads_kv: 1,
                    causal: Some(Alignment::BottomRight),
                    ..AttentionCase::new(2, 2, 37, 75, head_dim)
                };
                for dtype in dtypes_of_attention(&device) {
                    Attempt::new(case.clone(), *dtype, placement).check(&device, "strides");
                }
            }
        }
        // Each tensor placed differently from the others.
        let mixed = [Placement::Transposed, Placement::Padded, Placement::Misaligned, Placement::Contiguous];
        for turn in 0..4 {
            let mut attempt = Attempt::new(AttentionCase::new(2, 2, 35, 50, 64), DType::BF16, Placement::Contiguous);
            attempt.placements = std::array::from_fn(|index| mixed[(index + turn) % 4]);
            attempt.check(&device, "each tensor in a layout of its own");
        }
    }
}

#[test]
fn alignment_does_not_change_the_bits() {
    for device in devices() {
        let case = AttentionCase::new(1, 2, 70, 90, 64);
        let [first, rest @ ..] = PLACEMENTS.map(|placement| {
            let outcome = Attempt::new(case.clone(), DType::F16, placement).run(&device).expect("a valid case");
            (outcome.output, outcome.lse)
        });
        for other in rest {
            assert!(other == first, "another layout gave other bits on {device}");
        }
    }
}

#[test]
fn a_negative_length_is_no_length() {
    for device in devices() {
        for dtype in dtypes_of_attention(&device) {
            check_negative_length(&device, *dtype, 64, "unchecked lengths");
        }
    }
}

#[test]
fn means_of_ones_are_one() {
    for device in devices() {
        for dtype in [DType::F16, DType::BF16] {
            for head_dim in [32, 96] {
                check_weights_of_ones(&device, dtype, head_dim, "values of 1");
            }
        }
    }
}

/// A row's bits depend on its own inputs only: not on the batch, the other heads, or the other queries.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    for device in devices() {
        let full = Attempt::new(AttentionCase::new(3, 2, 150, 100, 64), DType::F16, Placement::Contiguous);
        let [q, k, v] = full.inputs();
        let outcome = full.run(&device).expect("a valid case");
        let run_one = |batch: usize, head: usize, query: usize| {
            let at = |values: &[f64], len: usize, row: usize, rows: usize| {
                values[((batch * 2 + head) * len + row) * 64..][..rows * 64].to_vec()
            };
            let device = device.clone();
            let upload = |values: Vec<f64>, rows: usize| {
                common::upload(&device, DType::F16, &values, &[1, 1, rows, 64]).expect("a valid tensor")
            };
            let (q, k, v) =
                (upload(at(&q, 150, query, 1), 1), upload(at(&k, 100, 0, 100), 100), upload(at(&v, 100, 0, 100), 100));
            let forward = full.attention().forward(&warpfold::Qkv::new(&q, &k, &v)).expect("a valid case");
            (forward.output.to_vec_f32().expect("f16"), forward.lse.to_vec::<f32>().expect("f32"))
        };
        for (batch, head, query) in [(0, 0, 0), (1, 1, 77), (2, 0, 149)] {
            let (output, lse) = run_one(batch, head, query);
            let row = (batch * 2 + head) * 150 + query;
            let expected: Vec<f32> = outcome.output[row * 64..][..64].iter().map(|value| *value as f32).collect();
            assert_eq!((output, lse), (expected, vec![outcome.lse[row] as f32]), "row {row} on {device}");
        }
    }
}

/// On a device with a head_dim of v of its own.
#[test]
fn value_head_dim_may_differ_on_the_cpu() {
    for (head_dim, head_dim_v) in [(5, 7), (64, 32), (40, 100), (1, 1)] {
        let case = AttentionCase { head_dim_v, ..AttentionCase::new(2, 2, 70, 90, head_dim) };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            Attempt::new(case.clone(), dtype, Placement::Misaligned).check(&Device::cpu(), "head_dim of v");
        }
    }
}
