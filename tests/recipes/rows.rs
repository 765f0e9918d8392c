//! Random problems of softmax and of norms.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use warpfold::DType;
use warpfold::reference::{Alignment, NormCase, SoftmaxCase};

use super::words::{self, PerTensor, Tensors};
use super::{among, count_elements, gated, is_default, per_tensor, placement, rounded, rounded_probability};
use crate::common::attention::dropout;
use crate::common::rows::norm::NORM_OPERANDS;
use crate::common::rows::softmax::SOFTMAX_OPERANDS;
use crate::common::rows::{NormAttempt, SoftmaxAttempt, drawn_rows, drawn_vector};
use crate::common::{DTYPES, Placement};

#[derive(Clone, Debug, PartialEq)]
pub enum OfSoftmax {}

impl Tensors for OfSoftmax {
    const NAMES: &'static [&'static str] = &["x", "bias", "mask", "y", "d_y", "d_x"];
}

/// A problem of softmax, as plain data; the values of its tensors follow from the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftmaxRecipe {
    #[serde(with = "words")]
    pub dtype: DType,
    pub shape: Vec<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub log: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub scale: Option<f32>,
    /// The shape of an additive bias: the last dimensions of x, each of them or 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bias: Option<Vec<usize>>,
    /// It is f32 whatever x is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub f32_bias: bool,
    /// The shape of a boolean mask.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mask: Option<Vec<usize>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub causal: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub window: [Option<usize>; 2],
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefix: usize,
    #[serde(default, skip_serializing_if = "is_default")]
    pub offset: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub in_place: bool,
    #[serde(default, skip_serializing_if = "PerTensor::is_default")]
    pub placements: PerTensor<OfSoftmax, Placement>,
    /// Of the elements of x.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mean: f32,
    pub seed: u64,
}

/// What an attempt takes for granted of a shape.
fn validate_shape(shape: &[usize]) -> Result<(), String> {
    if !(2..=4).contains(&shape.len()) || shape.contains(&0) {
        return Err(format!("shape is {shape:?}; there must be two to four dimensions, none of them 0"));
    }
    count_elements("x", shape)
}

impl SoftmaxRecipe {
    /// What an attempt takes for granted.
    pub fn validate(&self) -> Result<(), String> {
        validate_shape(&self.shape)?;
        for (name, shape) in [("bias", &self.bias), ("mask", &self.mask)] {
            let fits = |shape: &Vec<usize>| {
                let sizes = shape.iter().rev().zip(self.shape.iter().rev());
                (1..=self.shape.len()).contains(&shape.len())
                    && sizes.into_iter().all(|(own, size)| *own == 1 || own == size)
            };
            if let Some(shape) = shape.as_ref().filter(|shape| !fits(shape)) {
                return Err(format!(
                    "{name} has shape {shape:?}; it must have the last dimensions of {:?}, each of them or 1",
                    self.shape
                ));
            }
        }
        Ok(())
    }

    pub fn attempt(&self) -> SoftmaxAttempt {
        let case = SoftmaxCase {
            scale: self.scale.map_or(1.0, f64::from),
            is_log: self.log,
            bias: self.bias.as_deref().and_then(drawn_rows),
            mask: self.mask.as_deref().and_then(drawn_rows),
            causal: self.causal,
            window: self.window.into(),
            prefix: self.prefix,
            alignment: self.offset.map_or(Alignment::BottomRight, Alignment::Offset),
            ..SoftmaxCase::new(&self.shape)
        };
        SoftmaxAttempt {
            bias_dtype: if self.f32_bias { DType::F32 } else { self.dtype },
            in_place: self.in_place,
            placements: self.placements.array::<SOFTMAX_OPERANDS>(),
            mean: f64::from(self.mean),
            seed: self.seed,
            ..SoftmaxAttempt::new(case, self.dtype, Placement::Contiguous)
        }
    }
}

/// One to three leading dimensions and the columns: few rows where these are many.
fn rows_shape() -> impl Strategy<Value = Vec<usize>> {
    let columns = prop_oneof![6 => 1..40usize, 6 => 40..1200usize, 3 => 1200..9000usize, 1 => 9000..40_000usize];
    (prop::collection::vec(1..5usize, 1..4), columns).prop_map(|(mut shape, columns)| {
        if columns > 9000 {
            shape.iter_mut().for_each(|size| *size = 1);
        }
        shape.push(columns);
        shape
    })
}

/// The last dimensions of a shape, without the first few, some of them 1.
fn broadcast_shape(shape: &[usize], missing: usize, broadcast: u8) -> Vec<usize> {
    let kept = shape.iter().skip(missing.min(shape.len() - 1)).enumerate();
    kept.map(|(axis, size)| if broadcast >> axis & 1 == 1 { 1 } else { *size }).collect()
}

/// A softmax with any options.
pub fn softmax() -> impl Strategy<Value = SoftmaxRecipe> + use<> {
    let shown = || gated(0.3, (0..4usize, 0..16u8));
    let reach = || gated(0.5, 0..1000usize);
    let options = (any::<bool>(), gated(0.4, 0.05..3.0f32), shown(), shown(), any::<bool>());
    let positions =
        (prop::bool::weighted(0.3), gated(0.2, (reach(), reach())), gated(0.2, 0..1000usize), gated(0.2, -20..1000i64));
    let placements = per_tensor::<_, _, _, SOFTMAX_OPERANDS>(0.5, placement);
    let tensors = (among(&DTYPES), any::<bool>(), placements, -2.0..2.0f32, 0..1000u64);
    (rows_shape(), options, positions, tensors).prop_map(|(shape, options, positions, tensors)| {
        let (log, scale, bias, mask, in_place) = options;
        let (causal, window, prefix, offset) = positions;
        let (dtype, f32_bias, placements, mean, seed) = tensors;
        let broadcast = |(missing, broadcast)| broadcast_shape(&shape, missing, broadcast);
        SoftmaxRecipe {
            dtype,
            log,
            scale: scale.map(|scale| rounded(scale, 100.0)),
            bias: bias.map(broadcast),
            f32_bias,
            mask: mask.map(broadcast),
            causal,
            window: window.unwrap_or_default().into(),
            prefix: prefix.unwrap_or(0),
            offset,
            in_place,
            placements,
            mean: rounded(mean, 100.0),
            seed,
            shape,
        }
    })
}

#[derive(Clone, Debug, PartialEq)]
pub enum OfNorm {}

impl Tensors for OfNorm {
    const NAMES: &'static [&'static str] =
        &["x", "residual", "weight", "bias", "y", "sum", "d_y", "d_sum", "d_x", "d_residual"];
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    Rms,
    Layer,
}

/// A problem of layer norm or RMS norm, as plain data; the values of its tensors follow from the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormRecipe {
    pub kind: NormKind,
    pub shape: Vec<usize>,
    #[serde(default, skip_serializing_if = "PerTensor::is_default")]
    pub dtypes: PerTensor<OfNorm, DType>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub zero_centered: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub weight: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub bias: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub residual: bool,
    /// The sum with the residual is written, where there is one. What dropout left is known exactly from the device only, so that it
    /// is always written then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sum: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub stats: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub d_sum: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub d_residual: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub dropout: Option<f32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub eps: Option<f32>,
    #[serde(default, skip_serializing_if = "PerTensor::is_default")]
    pub placements: PerTensor<OfNorm, Placement>,
    /// Of the elements of x.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mean: f32,
    pub seed: u64,
}

impl NormRecipe {
    /// What an attempt takes for granted.
    pub fn validate(&self) -> Result<(), String> {
        validate_shape(&self.shape)
    }

    pub fn attempt(&self) -> NormAttempt {
        let (columns, leading) = self.shape.split_last().expect("there are columns");
        let case = match self.kind {
            NormKind::Layer => NormCase::layer(*columns),
            NormKind::Rms => NormCase::rms(*columns),
        };
        let case = NormCase {
            eps: self.eps.map_or(case.eps, f64::from),
            is_zero_centered: self.zero_centered,
            weight: drawn_vector().filter(|_| self.weight),
            bias: drawn_vector().filter(|_| self.bias),
            dropout: self.dropout.and_then(dropout),
            ..case
        };
        NormAttempt {
            dtypes: self.dtypes.array::<NORM_OPERANDS>(),
            placements: self.placements.array::<NORM_OPERANDS>(),
            with_residual: self.residual,
            with_sum: self.sum || self.dropout.is_some(),
            with_stats: self.stats,
            with_d_sum: self.d_sum,
            with_d_residual: self.d_residual,
            mean: f64::from(self.mean),
            seed: self.seed,
            ..NormAttempt::new(case, leading, DType::F32, Placement::Contiguous)
        }
    }
}

/// A norm with any options.
pub fn norm() -> impl Strategy<Value = NormRecipe> + use<> {
    let layer = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let options = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let numbers = (gated(0.3, 0.01..0.95f32), gated(0.3, 1e-3..1.0f32));
    let dtypes = per_tensor::<_, _, _, NORM_OPERANDS>(1.0 / 3.0, || among(&DTYPES));
    let placements = per_tensor::<_, _, _, NORM_OPERANDS>(0.5, placement);
    let tensors = (dtypes, placements, -2.0..2.0f32, 0..1000u64);
    (rows_shape(), layer, options, numbers, tensors).prop_map(|(shape, layer, options, numbers, tensors)| {
        let (is_centered, zero_centered, weight, bias) = layer;
        let (residual, sum, stats, d_sum, d_residual) = options;
        let (dropout, eps) = numbers;
        let (dtypes, placements, mean, seed) = tensors;
        let dropout = dropout.map(rounded_probability);
        // As in rows of a few elements, the gradients of a row of which dropout leaves one cancel up to eps.
        let kept = shape.last().map_or(0.0, |columns| *columns as f32 * (1.0 - dropout.unwrap_or(0.0)));
        let eps = if kept < 16.0 { Some(0.25) } else { eps.map(|eps| rounded(eps, 1000.0)) };
        NormRecipe {
            kind: if is_centered { NormKind::Layer } else { NormKind::Rms },
            shape,
            dtypes,
            zero_centered,
            weight,
            bias,
            residual,
            sum,
            stats,
            d_sum,
            d_residual,
            dropout,
            eps,
            placements,
            mean: rounded(mean, 100.0),
            seed,
        }
    })
}
