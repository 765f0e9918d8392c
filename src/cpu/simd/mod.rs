//! Loops over f32 that the compiler vectorises, compiled for several instruction sets and chosen at run time.

#![allow(unsafe_code, reason = "run-time dispatch calls functions that need an instruction set, after checking for it")]

mod philox;
mod rows;

use multiversion::multiversion;
use multiversion::target::selected_target;

pub(crate) use philox::{GROUP_KEYS, keep_factors};
pub(crate) use rows::{
    Stats, add_weight_gradients, central_sum, exp_sum, hide, log_softmax, log_softmax_gradients, narrow_bf16,
    norm_gradients, normalize, softmax_gradients, widen_bf16,
};

/// Columns of the matrix product's register tile; row lengths in scratch memory are multiples of it.
pub(crate) const LANES: usize = 16;
/// Rows of the matrix product's largest register tile: 8 x 16 sums fill a quarter of AVX-512's registers, and their 8
/// independent chains hide the latency of a multiply-add. 16-register instruction sets take 4 rows at a time.
pub(crate) const TILE_ROWS: usize = 8;

/// A row-major matrix in scratch memory.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub values: &'a [f32],
    /// Distance of neighbouring rows.
    pub stride: usize,
}

/// `a * b + c`; fused where that is one instruction, and never a library call.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `c += a b` for row-major matrices of `size` `[m, n, k]`: `m` rows (a multiple of [`TILE_ROWS`]), `n` columns (a
/// multiple of [`LANES`]).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn multiply_accumulate<'a>(a: Matrix<'a>, b: Matrix<'a>, c: &mut [f32], c_stride: usize, size: [usize; 3]) {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    const ROWS: usize = if selected_target!().supports_feature_str("avx512f") { TILE_ROWS } else { TILE_ROWS / 2 };
    let [m, n, k] = size;
    debug_assert!(m % TILE_ROWS == 0 && n % LANES == 0);
    for column in (0..n).step_by(LANES) {
        for row in (0..m).step_by(ROWS) {
            let a_rows: [&[f32]; ROWS] = std::array::from_fn(|r| &a.values[(row + r) * a.stride..][..k]);
            let sums = tile_product::<FUSED, ROWS>(&a_rows, &b.values[column..], b.stride, k);
            for (r, sums) in sums.iter().enumerate() {
                let c_row = &mut c[(row + r) * c_stride + column..][..LANES];
                c_row.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
            }
        }
    }
}

/// `c += a^T b` for row-major matrices, a `[k, m]` and b `[k, n]`, of `size` `[m, n, k]`: `m` is a multiple of [`TILE_ROWS`],
/// `n` of [`LANES`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn multiply_transposed_accumulate<'a>(
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: &mut [f32],
    c_stride: usize,
    size: [usize; 3],
) {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    const ROWS: usize = if selected_target!().supports_feature_str("avx512f") { TILE_ROWS } else { TILE_ROWS / 2 };
    let [m, n, k] = size;
    debug_assert!(m % TILE_ROWS == 0 && n % LANES == 0);
    for column in (0..n).step_by(LANES) {
        for row in (0..m).step_by(ROWS) {
            let sums =
                tile_product_transposed::<FUSED, ROWS>(&a.values[row..], a.stride, &b.values[column..], b.stride, k);
            for (r, sums) in sums.iter().enumerate() {
                let c_row = &mut c[(row + r) * c_stride + column..][..LANES];
                c_row.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
            }
        }
    }
}

/// The product of a few columns, as rows, with [`LANES`] columns, summed in registers.
#[inline(always)]
fn tile_product_transposed<const FUSED: bool, const ROWS: usize>(
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    k: usize,
) -> [[f32; LANES]; ROWS] {
    let mut sums = [[0.0f32; LANES]; ROWS];
    for (a_row, b_row) in a.chunks(a_stride).zip(b.chunks(b_stride)).take(k) {
        let a_row: &[f32; ROWS] = a_row.first_chunk().expect("there are whole tiles of rows");
        let b_row: &[f32; LANES] = b_row.first_chunk().expect("rows are padded to whole lanes");
        for r in 0..ROWS {
            sums[r] = add_product::<FUSED>(sums[r], a_row[r], b_row);
        }
    }
    sums
}

/// The product of a few rows with [`LANES`] columns, summed in registers.
#[inline(always)]
fn tile_product<const FUSED: bool, const ROWS: usize>(
    a_rows: &[&[f32]; ROWS],
    b: &[f32],
    b_stride: usize,
    k: usize,
) -> [[f32; LANES]; ROWS] {
    let mut sums = [[0.0f32; LANES]; ROWS];
    for (depth, b_row) in b.chunks(b_stride).take(k).enumerate() {
        let b_row: &[f32; LANES] = b_row.first_chunk().expect("rows are padded to whole lanes");
        for r in 0..ROWS {
            sums[r] = add_product::<FUSED>(sums[r], a_rows[r][depth], b_row);
        }
    }
    sums
}

/// `sums + scalar * row`. By value and in a function of its own: this is the form that the compiler vectorises whole.
#[inline(always)]
fn add_product<const FUSED: bool>(mut sums: [f32; LANES], scalar: f32, row: &[f32; LANES]) -> [f32; LANES] {
    for lane in 0..LANES {
        sums[lane] = multiply_add::<FUSED>(scalar, row[lane], sums[lane]);
    }
    sums
}

/// The largest of some values; `-inf` for none. NaN is ignored.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, value| max.max(*value))
}

/// Replaces each value by `2^((value - base) * factor)` and returns their sum.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn exp2_sum(values: &mut [f32], base: f32, factor: f32) -> f32 {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            chunk[lane] = exp2::<FUSED>((chunk[lane] - base) * factor);
            lanes[lane] += chunk[lane];
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for value in rest {
        *value = exp2::<FUSED>((*value - base) * factor);
        sum += *value;
    }
    sum
}

/// `values *= factor`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn scale(values: &mut [f32], factor: f32) {
    values.iter_mut().for_each(|value| *value *= factor);
}

/// `values += others`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn add(values: &mut [f32], others: &[f32]) {
    values.iter_mut().zip(others).for_each(|(value, other)| *value += other);
}

/// `values *= others`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn multiply(values: &mut [f32], others: &[f32]) {
    values.iter_mut().zip(others).for_each(|(value, other)| *value *= other);
}

/// `values *= others`, but for zeros, which stay 0 whatever the other is.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn multiply_nonzero(values: &mut [f32], others: &[f32]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value = if *value == 0.0 { 0.0 } else { *value * *other };
    }
}

/// The scalar product of two slices of one length, in lanes.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    let mut lanes = [0.0f32; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = multiply_add::<FUSED>(a[lane], b[lane], lanes[lane]);
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// `value -= slope * |distance - index|` for each value and its index.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn subtract_distances(values: &mut [f32], slope: f32, distance: i32) {
    for (index, value) in values.iter_mut().enumerate() {
        *value -= slope * (distance - index as i32).abs() as f32;
    }
}

/// Replaces each value by `cap * tanh(value / cap)`, and sets `derivatives`, of the same length or empty, to `1 - tanh^2`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn softcap(values: &mut [f32], cap: f32, derivatives: &mut [f32]) {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    if derivatives.is_empty() {
        values.iter_mut().for_each(|value| *value = cap * tanh::<FUSED>(*value / cap));
        return;
    }
    for (value, derivative) in values.iter_mut().zip(derivatives) {
        let tanh = tanh::<FUSED>(*value / cap);
        *derivative = 1.0 - tanh * tanh;
        *value = cap * tanh;
    }
}

/// From scores s and `d_weights`, the gradients with respect to the weights that multiply v, of one row:
///
/// ```text
/// p = exp(s - lse)        s = p * factor        d_weights = p * (d_weights * factor - delta)
/// ```
///
/// A score of `-inf` gives 0 in both, whatever the other operands hold. All slices have one length.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+fma", "x86_64+avx2+fma", "x86_64+avx"))]
pub(crate) fn score_gradients(scores: &mut [f32], d_weights: &mut [f32], factors: &[f32], lse: f32, delta: f32) {
    const FUSED: bool = selected_target!().supports_feature_str("fma") || cfg!(target_arch = "aarch64");
    for ((score, d_weight), factor) in scores.iter_mut().zip(d_weights).zip(factors) {
        let exponential = exp2::<FUSED>((*score - lse) * std::f32::consts::LOG2_E);
        let weight = if *score == f32::NEG_INFINITY { 0.0 } else { exponential };
        let d_score = weight * (*d_weight * *factor - delta);
        *d_weight = if weight == 0.0 { 0.0 } else { d_score };
        *score = weight * *factor;
    }
}

/// `2^x` for `x <= 0` (larger values overflow early), 0 below 2^-126, NaN for NaN.
///
/// `x = n + f` with integer n and `|f| <= 1/2`; `2^f` by its Taylor polynomial of degree 7 (remainder below 6e-9),
/// `2^n` by exponent bits. A test holds the error to 2 ulp.
#[inline(always)]
fn exp2<const FUSED: bool>(x: f32) -> f32 {
    /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln(2)^k / k!, highest power first.
    const COEFFICIENTS: [f32; 8] = [
        1.525_273_4e-5,
        1.540_353_1e-4,
        1.333_355_8e-3,
        9.618_129e-3,
        5.550_411e-2,
        0.240_226_5,
        std::f32::consts::LN_2,
        1.0,
    ];
    let bounded = if x < -126.0 { -126.0 } else { x };
    let rounded = bounded + ROUND;
    let fraction = bounded - (rounded - ROUND);
    let mut power = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        power = multiply_add::<FUSED>(power, fraction, *coefficient);
    }
    // The last bits of the sum are the integer's. It lies in [-126, 127] or belongs to a NaN or an overflow, where the bits
    // do not matter. A conversion to an integer would keep the loop from being vectorised.
    let exponent = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x < -126.0 { 0.0 } else { power * exponent }
}

/// The hyperbolic tangent: near 0 an odd polynomial (Cephes' `tanhf`), elsewhere by `exp(-2 |x|)`. A test holds the error to
/// 3 ulp.
#[inline(always)]
fn tanh<const FUSED: bool>(x: f32) -> f32 {
    /// Of `x^3 (c0 x^8 + c1 x^6 + ...)`, what is beside x itself.
    const COEFFICIENTS: [f32; 5] = [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];
    let magnitude = x.abs();
    let decay = exp2::<FUSED>(magnitude * (-2.0 * std::f32::consts::LOG2_E));
    let square = x * x;
    let mut sum = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        sum = multiply_add::<FUSED>(sum, square, *coefficient);
    }
    let near = multiply_add::<FUSED>(sum * square, x, x);
    if magnitude < 0.625 { near } else { ((1.0 - decay) / (1.0 + decay)).copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units of the last place of `exact`.
    fn ulps(value: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
        (f64::from(value) - exact).abs() / ulp
    }

    #[test]
    fn exp2_is_within_two_ulp() {
        let mut worst = (0.0f64, 0.0f32);
        for step in 0..2_000_000u32 {
            let x = -(step as f32) * 6.25e-5;
            let mut values = [x];
            let sum = exp2_sum(&mut values, 0.0, 1.0);
            assert_eq!(sum, values[0]);
            let error = ulps(values[0], f64::from(x).exp2());
            if error > worst.0 {
                worst = (error, x);
            }
        }
        assert!(worst.0 <= 2.0, "exp2({}) is {} ulp off", worst.1, worst.0);
    }

    #[test]
    fn exp2_of_special_values() {
        let mut values = [f32::NEG_INFINITY, 0.0, -1000.0, f32::NAN, -126.5, -1.0];
        exp2_sum(&mut values, 0.0, 1.0);
        assert_eq!((values[0], values[1], values[2], values[4], values[5]), (0.0, 1.0, 0.0, 0.0, 0.5));
        assert!(values[3].is_nan());
    }

    #[test]
    fn products_equal_scalar_sums() {
        let (m, n, k) = (8, 64, 37);
        let a: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 - 8.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 23) as f32 - 11.0).collect();
        let mut c = vec![1.0f32; m * n];
        let (a_matrix, b_matrix) = (Matrix { values: &a, stride: k }, Matrix { values: &b, stride: n });
        multiply_accumulate(a_matrix, b_matrix, &mut c, n, [m, n, k]);
        for row in 0..m {
            for column in 0..n {
                // Small integers: the products and sums are exact in any order.
                let exact: f32 = (0..k).map(|depth| a[row * k + depth] * b[depth * n + column]).sum();
                assert_eq!(c[row * n + column], 1.0 + exact);
            }
        }
        let a_transposed: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
        let mut by_transposed = vec![1.0f32; m * n];
        let a_matrix = Matrix { values: &a_transposed, stride: m };
        multiply_transposed_accumulate(a_matrix, b_matrix, &mut by_transposed, n, [m, n, k]);
        assert_eq!(by_transposed, c);
    }

    #[test]
    fn tanh_is_within_three_ulp() {
        let mut worst = (0.0f64, 0.0f32);
        for step in 1..2_000_000u32 {
            let x = step as f32 * 5e-6;
            let mut values = [x, -x];
            softcap(&mut values, 1.0, &mut []);
            assert_eq!(values[0], -values[1]);
            let error = ulps(values[0], f64::from(x).tanh());
            if error > worst.0 {
                worst = (error, x);
            }
        }
        assert!(worst.0 <= 3.0, "tanh({}) is {} ulp off", worst.1, worst.0);
        let mut special = [0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30];
        softcap(&mut special, 1.0, &mut []);
        assert_eq!((special[0], special[1], special[2], special[4]), (0.0, 1.0, -1.0, 1e-30));
        assert!(special[3].is_nan());
    }

    #[test]
    fn hidden_scores_have_no_gradient_whatever_the_rest_holds() {
        let (mut scores, mut d_weights) = ([f32::NEG_INFINITY, 0.0, 0.5], [f32::NAN, 3.0, 2.0]);
        score_gradients(&mut scores, &mut d_weights, &[1.0, 0.0, 2.0], 0.5, 1.0);
        let weight = (-0.5f32).exp();
        assert_eq!((scores[0], scores[1], scores[2]), (0.0, 0.0, 2.0));
        assert_eq!((d_weights[0], d_weights[2]), (0.0, 3.0));
        assert!((d_weights[1] + weight).abs() < 1e-7);
    }

    #[test]
    fn sums_and_maxima_take_any_length() {
        for length in [0, 1, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..length).map(|i| ((i * 7) % 11) as f32).collect();
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            assert_eq!(central_sum(&values, 1.0, 1), values.iter().map(|v| v - 1.0).sum::<f32>());
            assert_eq!(central_sum(&values, 1.0, 2), values.iter().map(|v| (v - 1.0) * (v - 1.0)).sum::<f32>());
        }
    }
}
