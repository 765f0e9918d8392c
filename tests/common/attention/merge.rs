//! The merging of partial results by itself.

use warpfold::reference::compare::{self, Mismatch};
use warpfold::reference::{self, naive};
use warpfold::{AttentionForward, AttentionOutputs, AttentionState, DType, Device, Error, TensorRef};

use super::given::place_f32;
use super::{check_zeros, sinks};
use crate::common::{Placed, Placement, upload, values};

/// Merges partial results whose numbers are drawn, some of them of rows without keys and full of NaN, and holds the result
/// to the oracle.
pub fn check_merge(device: &Device, dtype: DType, parts: usize, with_sinks: bool, head_dim: usize, why: &str) {
    let [batch, heads, len] = [2, 3, 19];
    let rows = batch * heads * len;
    let empty = |part: usize, row: usize| (row * 31 + part * 17) % 5 < 2 || row % 11 == 4;
    let drawn: Vec<[Vec<f64>; 2]> = (0..parts as u64)
        .map(|part| {
            let mut output = values(2 * part, rows * head_dim, 0.5, 1.0, DType::F32);
            let mut lse = values(2 * part + 1, rows, 3.0, 4.0, DType::F32);
            for row in (0..rows).filter(|row| empty(part as usize, *row)) {
                output[row * head_dim..][..head_dim].fill(f64::NAN);
                lse[row] = f64::NEG_INFINITY;
            }
            [output, lse]
        })
        .collect();
    let sinks = sinks(heads).filter(|_| with_sinks);
    let run = || -> Result<[Vec<f64>; 2], Error> {
        let state = |[output, lse]: &[Vec<f64>; 2]| {
            let output = upload(device, DType::F32, output, &[batch, heads, len, head_dim])?;
            let lse = upload(device, DType::F32, lse, &[batch, heads, len])?;
            AttentionState::from_natural_log(AttentionForward { output, lse })
        };
        let states = drawn.iter().map(state).collect::<Result<Vec<AttentionState>, Error>>()?;
        let states: Vec<_> = states.iter().map(AttentionState::view).collect();
        let placed_sinks = place_f32(device, sinks.as_deref(), &[heads])?;
        let shape = [batch, heads, len, head_dim];
        let mut output = Placed::poisoned(device, dtype, &shape, Placement::Transposed)?;
        let mut lse = Placed::poisoned(device, DType::F32, &shape[..3], Placement::Contiguous)?;
        let outputs = AttentionOutputs::new(output.view_mut()).lse(lse.view_mut());
        let sinks: Option<TensorRef<'_>> = placed_sinks.as_ref().map(Placed::view);
        AttentionState::merge_into(&device.stream(), &states, sinks, outputs)?;
        Ok([output.values()?, lse.values()?])
    };
    let details = format!("{parts} parts, {dtype}, head_dim {head_dim}, sinks {with_sinks}");
    let [output, lse] = run().unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{details}"));

    let row_sinks: Option<Vec<f64>> = sinks.map(|sinks| (0..rows).map(|row| sinks[row / len % heads]).collect());
    let all: Vec<(&[f64], &[f64])> = drawn.iter().map(|[output, lse]| (&output[..], &lse[..])).collect();
    let oracle = reference::merge(&all, head_dim, row_sinks.as_deref());
    let unfused = merge_in_f32(&all, head_dim, row_sinks.as_deref(), dtype);
    let shape = [batch, heads, len, head_dim];
    let score_max = lse.iter().filter(|lse| lse.is_finite()).fold(0.0f64, |max, lse| max.max(lse.abs()));
    let judge = || -> Result<(), Mismatch> {
        compare::check_lse("lse", &shape[..3], &lse, &oracle.lse, score_max)?;
        check_zeros("output", &shape, &output, |index| (0..parts).all(|part| empty(part, index / head_dim)))?;
        compare::check("output", &shape, dtype, &output, &oracle.output, &unfused, 2.0).map(drop)
    };
    judge().unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}\n{details}"));
}

/// What an unfused computation in f32 makes of partial results, rounded to the type.
fn merge_in_f32(parts: &[(&[f64], &[f64])], columns: usize, sinks: Option<&[f64]>, dtype: DType) -> Vec<f64> {
    let rows = parts[0].1.len();
    let mut merged = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let lses: Vec<f32> = parts.iter().map(|(_, lse)| lse[row] as f32).collect();
        let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[row] as f32);
        let max = lses.iter().copied().fold(sink, f32::max);
        let sum = lses.iter().map(|lse| (lse - max).exp()).sum::<f32>() + (sink - max).exp();
        let lse = if max == f32::NEG_INFINITY { max } else { max + sum.ln() };
        for column in 0..columns {
            let present = parts.iter().zip(&lses).filter(|(_, part)| **part != f32::NEG_INFINITY);
            let sum: f32 =
                present.map(|((part, _), own)| (own - lse).exp() * part[row * columns + column] as f32).sum();
            merged.push(naive::round(f64::from(sum), dtype));
        }
    }
    merged
}
