//! Random problems: every device against the oracle, and the identities of section 3 of the contract.

mod common;

use common::attention::Attempt;
use common::rows::RowsAttempt;
use common::{PLACEMENTS, Placement, devices, dtypes_of_attention, small};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use warpfold::reference::{Alignment, AttentionCase};
use warpfold::{DType, Device};

/// Runs a property on every device: fewer cases where each is slow.
fn check_property<S: Strategy>(
    strategy: impl Fn(&Device) -> S,
    property: impl Fn(&Device, S::Value) -> Result<(), TestCaseError>,
) {
    for device in devices() {
        let cases = match (small(), device == Device::cpu()) {
            (true, _) => 4,
            (false, true) => 192,
            (false, false) => 24,
        };
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        // A fixed seed: a run can be repeated, and a failure prints its shrunk case.
        let mut runner = TestRunner::new_with_rng(
            config,
            proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &[42; 32]),
        );
        runner
            .run(&strategy(&device), |value| property(&device, value))
            .unwrap_or_else(|error| panic!("{device}: {error}"));
    }
}

fn placement() -> impl Strategy<Value = Placement> {
    prop::sample::select(PLACEMENTS.to_vec())
}

fn attempt(device: &Device) -> impl Strategy<Value = Attempt> + use<> {
    let on_cpu = device == &Device::cpu();
    let head_dims: Vec<usize> = if on_cpu { vec![8, 24, 32, 40, 64, 96, 128, 160] } else { vec![32, 64, 96, 128] };
    let dtypes = dtypes_of_attention(device).to_vec();
    let sizes = (1..3usize, 1..3usize, 1..4usize, 1..150usize, 0..200usize);
    let mask = prop_oneof![
        Just(None),
        Just(Some(Alignment::BottomRight)),
        (-160..220i64).prop_map(|offset| Some(Alignment::Offset(offset))),
    ];
    let options = (mask, prop::option::of(0.05..3.0f64), prop::option::of(prop::collection::vec(0.0..=1.0f64, 2)));
    let types = (prop::sample::select(head_dims), prop::sample::select(dtypes), prop::array::uniform4(placement()));
    (sizes, options, types, any::<u32>()).prop_map(|(sizes, options, types, seed)| {
        let (batch, heads_kv, group, len_q, len_kv) = sizes;
        let (causal, scale, lengths) = options;
        let (head_dim, dtype, placements) = types;
        let key_lengths =
            lengths.map(|shares| shares[..batch].iter().map(|share| (share * len_kv as f64) as usize).collect());
        let scale = scale.map(|scale| f64::from(scale as f32 / (head_dim as f32).sqrt()));
        let case = AttentionCase {
            batch,
            heads_q: heads_kv * group,
            heads_kv,
            len_q,
            len_kv,
            head_dim,
            head_dim_v: head_dim,
            scale,
            causal,
            key_lengths,
        };
        Attempt { case, dtype, placements, seed: u64::from(seed) }
    })
}

#[test]
fn attention_agrees_with_the_oracle() {
    check_property(attempt, |device, attempt| {
        let outcome = attempt.run(device).map_err(|error| TestCaseError::fail(error.to_string()))?;
        attempt.judge(&outcome).map_err(|mismatch| TestCaseError::fail(mismatch.to_string()))?;
        Ok(())
    });
}

#[test]
fn permuting_the_batch_permutes_the_bits() {
    check_property(attempt, |device, attempt| {
        let mut single = attempt.clone();
        single.case.batch = 1;
        single.case.key_lengths = single.case.key_lengths.map(|lengths| lengths[..1].to_vec());
        // The same inputs as sequence 0 of a batch whose other sequence differs.
        let mut pair = single.clone();
        pair.case.batch = 2;
        pair.case.key_lengths = single.case.key_lengths.as_ref().map(|lengths| vec![lengths[0], single.case.len_kv]);
        let outcomes = (single.run(device), pair.run(device));
        let (Ok(single), Ok(pair)) = outcomes else { return Err(TestCaseError::fail("a valid case failed")) };
        prop_assert!(pair.output[..single.output.len()] == single.output[..]);
        prop_assert!(pair.lse[..single.lse.len()] == single.lse[..]);
        Ok(())
    });
}

#[test]
fn causal_equals_the_explicit_prefix() {
    // With one query, a causal mask with an offset is a key length: both must give the same bits.
    let strategy = |device: &Device| {
        (attempt(device), 0..200usize).prop_map(|(mut attempt, visible)| {
            attempt.case.len_q = 1;
            attempt.case.batch = 1;
            attempt.case.causal = None;
            attempt.case.key_lengths = None;
            let visible = visible.min(attempt.case.len_kv);
            (attempt, visible)
        })
    };
    check_property(strategy, |device, (attempt, visible)| {
        let mut causal = attempt.clone();
        causal.case.causal = Some(Alignment::Offset(visible as i64 - 1));
        let mut length = attempt.clone();
        length.case.key_lengths = Some(vec![visible]);
        let (Ok(causal), Ok(length)) = (causal.run(device), length.run(device)) else {
            return Err(TestCaseError::fail("a valid case failed"));
        };
        prop_assert!(causal.output == length.output && causal.lse == length.lse);
        Ok(())
    });
}

fn rows(_: &Device) -> impl Strategy<Value = RowsAttempt> + use<> {
    let dtypes = vec![DType::F32, DType::F16, DType::BF16];
    let shape = (1..4usize, 1..4usize, prop_oneof![1..40usize, 40..1200usize, 1200..9000usize]);
    (shape, prop::sample::select(dtypes), prop::array::uniform2(placement()), -2.0..2.0f64, any::<u32>()).prop_map(
        |((outer, inner, columns), dtype, placements, mean, seed)| RowsAttempt {
            shape: vec![outer, inner, columns],
            dtype,
            placements,
            mean,
            spread: 1.0,
            seed: u64::from(seed),
        },
    )
}

#[test]
fn rows_agree_with_the_oracle() {
    check_property(rows, |device, attempt| {
        attempt.check_softmax(device, "random rows");
        attempt.check_layer_norm(device, attempt.seed % 2 == 0, attempt.seed % 3 == 0, "random rows");
        Ok(())
    });
}

#[test]
fn softmax_rows_sum_to_one() {
    check_property(rows, |device, attempt| {
        let y = attempt.softmax(device).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let columns = attempt.shape[2];
        // Each value is rounded by half a unit, so the sum is off by at most that share of itself and a little more.
        let allowed = 1.1 * warpfold::reference::naive::unit_roundoff(attempt.dtype) + 1e-6;
        let subnormal = if attempt.dtype == DType::F16 { columns as f64 * 2f64.powi(-25) } else { 0.0 };
        for row in y.chunks(columns) {
            let sum: f64 = row.iter().sum();
            prop_assert!((sum - 1.0).abs() <= allowed + subnormal, "a row of {columns} sums to {sum}");
        }
        Ok(())
    });
}
