//! The loops of softmax and the norms, over one row. All slices of a call have one length.

use half::bf16;
use multiversion::multiversion;
use multiversion::target::selected_target;

use super::{LANES, exp2, multiply_add};

/// Converts bf16, the upper halves of f32.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn widen_bf16(values: &[bf16], out: &mut [f32]) {
    for (value, out) in values.iter().zip(out) {
        let bits = u32::from(value.to_bits());
        // A signalling NaN becomes a quiet one, as arithmetic on it would make it.
        let quiet = if bits & 0x7fff > 0x7f80 { 0x40 } else { 0 };
        *out = f32::from_bits((bits | quiet) << 16);
    }
}

/// Rounds to bf16, to nearest, ties to even; a NaN stays one.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn narrow_bf16(values: &[f32], out: &mut [bf16]) {
    for (value, out) in values.iter().zip(out) {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        *out = bf16::from_bits((if value.is_nan() { bits | 0x40_0000 } else { rounded } >> 16) as u16);
    }
}

/// Sets to `-inf` the values whose element of a boolean mask is 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn hide(values: &mut [f32], mask: &[u8]) {
    for (value, visible) in values.iter_mut().zip(mask) {
        *value = if *visible == 0 { f32::NEG_INFINITY } else { *value };
    }
}

/// The sum of `exp(value - base)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn exp_sum(values: &[f32], base: f32) -> f32 {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    sum(values, |value| exp2::<FUSED>((value - base) * std::f32::consts::LOG2_E))
}

/// `value = (value - base) - log_sum`: close to the base, the first difference loses nothing.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn log_softmax(values: &mut [f32], base: f32, log_sum: f32) {
    values.iter_mut().for_each(|value| *value = (*value - base) - log_sum);
}

/// Replaces the gradients of a softmax's results y by `scale * y * (d_y - sum y d_y)`. Where y is 0, the gradient is 0 and
/// d_y is not looked at.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn softmax_gradients(y: &[f32], d_y: &mut [f32], scale: f32) {
    let total = sum_of_pairs(y, d_y, |y, d_y| if y == 0.0 { 0.0 } else { y * d_y });
    for (y, d_y) in y.iter().zip(d_y) {
        *d_y = if *y == 0.0 { 0.0 } else { scale * (*y * (*d_y - total)) };
    }
}

/// As [`softmax_gradients`], for the logarithm of a softmax: `scale * (d_y - exp(y) * sum d_y)`, and 0 where y is `-inf`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn log_softmax_gradients(y: &[f32], d_y: &mut [f32], scale: f32) {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    let total = sum_of_pairs(y, d_y, |y, d_y| if y == f32::NEG_INFINITY { 0.0 } else { d_y });
    for (y, d_y) in y.iter().zip(d_y) {
        let weight = exp2::<FUSED>(*y * std::f32::consts::LOG2_E);
        *d_y = if *y == f32::NEG_INFINITY { 0.0 } else { scale * (*d_y - weight * total) };
    }
}

/// What a row is multiplied by once it is centered: `n = (s - mean) * rstd`.
#[derive(Clone, Copy)]
pub(crate) struct Stats {
    pub mean: f32,
    pub rstd: f32,
}

impl Stats {
    #[inline(always)]
    fn normalize(&self, value: f32) -> f32 {
        (value - self.mean) * self.rstd
    }
}

/// Replaces s by `n * weight + bias`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn normalize(s: &mut [f32], stats: &Stats, weight: &[f32], bias: &[f32]) {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    for ((s, weight), bias) in s.iter_mut().zip(weight).zip(bias) {
        *s = multiply_add::<FUSED>(stats.normalize(*s), *weight, *bias);
    }
}

/// `sums += d_y * n`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn add_weight_gradients(sums: &mut [f32], s: &[f32], d_y: &[f32], stats: &Stats) {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    for ((sum, s), d_y) in sums.iter_mut().zip(s).zip(d_y) {
        *sum = multiply_add::<FUSED>(*d_y, stats.normalize(*s), *sum);
    }
}

/// Replaces the gradients of a norm's results by those of s: with `g = weight * d_y`,
/// `rstd * (g - mean(g) - n * mean(g n))`, and without `mean(g)` if the norm does not center.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn norm_gradients(s: &[f32], d_y: &mut [f32], weight: &[f32], stats: &Stats, is_centered: bool) {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    let g = d_y;
    g.iter_mut().zip(weight).for_each(|(g, weight)| *g *= *weight);
    let count = s.len() as f32;
    let mean_g = if is_centered { sum(g, |g| g) / count } else { 0.0 };
    let mean_gn = sum_of_pairs(s, g, |s, g| g * stats.normalize(s)) / count;
    for (s, g) in s.iter().zip(g) {
        *g = stats.rstd * multiply_add::<FUSED>(-stats.normalize(*s), mean_gn, *g - mean_g);
    }
}

/// The sum of `(value - center)^power`, power 1 or 2, in lanes.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn central_sum(values: &[f32], center: f32, power: u32) -> f32 {
    match power {
        1 => sum(values, |value| value - center),
        _ => sum(values, |value| (value - center) * (value - center)),
    }
}

/// Terms that are added one after the other in each lane's sum, times the lanes. The sums of blocks are added in a second step,
/// so that a long row of nearly equal terms keeps its digits.
const SUM_BLOCK: usize = 64 * LANES;

/// The sum of a function of the values, in lanes.
#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    values.chunks(SUM_BLOCK).map(|block| sum_of_block(block, &term)).sum()
}

/// The sum of a function of pairs of values, in lanes.
#[inline(always)]
fn sum_of_pairs(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let blocks = a.chunks(SUM_BLOCK).zip(b.chunks(SUM_BLOCK));
    blocks.map(|(a, b)| sum_of_block_pairs(a, b, &term)).sum()
}

#[inline(always)]
fn sum_of_block(values: &[f32], term: &impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += term(chunk[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| term(*value)).sum::<f32>()
}

#[inline(always)]
fn sum_of_block_pairs(a: &[f32], b: &[f32], term: &impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| term(*a, *b)).sum::<f32>()
}
