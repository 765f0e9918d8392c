//! One attempt of softmax or of a norm: inputs, a device's results, and the oracle's verdict.

pub mod norm;
pub mod softmax;

use warpfold::reference::compare::Mismatch;
use warpfold::reference::{RowBroadcast, naive};
use warpfold::variants::{RowFeatures, Tile, Variant};
use warpfold::{DType, LaunchPlan, TensorSpec};

use super::Placement;

#[allow(unused_imports, reason = "each test binary uses its part")]
pub use norm::{NormAttempt, NormOperand};
#[allow(unused_imports, reason = "each test binary uses its part")]
pub use softmax::{
    SoftmaxAttempt, SoftmaxOperand, check_softmax_of_a_nan_beside_hidden_columns, check_softmax_of_special_values,
};

/// A bias or mask of softmax whose values an attempt draws from its seed.
pub fn drawn_rows<T>(shape: &[usize]) -> Option<RowBroadcast<T>> {
    Some(RowBroadcast { shape: shape.to_vec(), values: Vec::new() })
}

/// A weight or bias of a norm whose values an attempt draws from its seed.
pub fn drawn_vector() -> Option<Vec<f64>> {
    Some(Vec::new())
}

/// The longest row that a kernel of the ladder takes alone: of whole 16-byte vectors where it takes no others.
pub fn longest_row(kernel: &Variant) -> usize {
    let Tile::Rows { threads_per_row, vectors, features, .. } = kernel.tile else {
        panic!("{} has no rows", kernel.name())
    };
    let slot = 16 / kernel.dtype.size_bytes();
    let whole = (threads_per_row * vectors) as usize * slot;
    // Less than a vector at either end needs no thread of its own, and both ends are less than one more.
    if features == RowFeatures::Whole { whole } else { whole + slot - 1 }
}

/// What a plan reads of a placed tensor, in memory that is aligned.
fn placed_spec(dtype: DType, shape: &[usize], placement: Placement) -> TensorSpec {
    let (layout, _) = placement.layout(shape);
    let offset_bytes = layout.offset() * dtype.size_bytes();
    TensorSpec { dtype, layout, alignment_bytes: 1 << offset_bytes.trailing_zeros().min(4) }
}

fn kernel_names(launches: &[&LaunchPlan]) -> Vec<String> {
    launches.iter().map(|launch| launch.variant.name()).collect()
}

/// Results of 16 bits are computed in f32, so that nearly all of them are the nearest numbers to the oracle's, or to what f32 cannot
/// tell from it: differences of numbers of one grid are often halfway between two results all at once.
fn check_rounding(what: &str, dtype: DType, actual: &[f64], oracle: &[f64]) -> Result<(), Mismatch> {
    if dtype == DType::F32 {
        return Ok(());
    }
    let is_nearest = |actual: f64, oracle: f64| {
        let like_it = [0.0, -1.0, 1.0].map(|sign| oracle * (1.0 + sign * 2f64.powi(-20)));
        like_it.iter().any(|oracle| actual == naive::round(*oracle, dtype)) || oracle.is_nan()
    };
    let missed: Vec<usize> = (0..actual.len()).filter(|index| !is_nearest(actual[*index], oracle[*index])).collect();
    // Of a few results, one may lie between two numbers by chance.
    if missed.len() * 100 <= actual.len() * 3 + 100 {
        return Ok(());
    }
    Err(Mismatch {
        what: what.to_string(),
        coordinate: vec![missed[0]],
        actual: actual[missed[0]],
        oracle: oracle[missed[0]],
        reason: format!("{} of {} results are not rounded to nearest", missed.len(), actual.len()),
    })
}

/// The values of some rows.
fn select_rows(values: &[f64], columns: usize, rows: &[usize]) -> Vec<f64> {
    rows.iter().flat_map(|row| &values[row * columns..(row + 1) * columns]).copied().collect()
}
