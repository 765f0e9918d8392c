//! Holds a device's result to the oracle.

use std::fmt;

use crate::dtype::DType;
use crate::reference::naive::unit_roundoff;

/// Where and how a result leaves its tolerance.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// What was compared.
    pub what: String,
    /// The worst element's index tuple.
    pub coordinate: Vec<usize>,
    /// The value there.
    pub actual: f64,
    /// The oracle's value there.
    pub oracle: f64,
    /// Which bound was broken, and by how much.
    pub reason: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {:?}: {:e} instead of {:e}; {}",
            self.what, self.coordinate, self.actual, self.oracle, self.reason
        )
    }
}

impl std::error::Error for Mismatch {}

/// How close a result came, for reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Closeness {
    /// The largest absolute difference.
    pub max_difference: f64,
    /// The bound on it.
    pub max_allowed: f64,
    /// Root mean square of the differences over that of the oracle.
    pub relative_rms: f64,
}

impl Closeness {
    /// How much of the bound the largest difference takes: 0 for equal results, 1 at the bound.
    pub fn share_of_allowed(&self) -> f64 {
        if self.max_difference == 0.0 { 0.0 } else { self.max_difference / self.max_allowed }
    }
}

/// Holds a low-precision result to the error of the unfused computation.
///
/// ```text
/// max |x - oracle| <= factor * max |naive - oracle| + one ulp at max |oracle|        (four in f32)
/// rms(x - oracle)  <= factor * rms(naive - oracle) + two unit roundoffs of rms(oracle)     (four in f32)
/// ```
///
/// The factor is 2 for results and 3 for gradients. In f32 the accumulator is no wider than the result, so that naive's own
/// error is a matter of luck: hence the fours.
///
/// # Errors
/// The worst [`Mismatch`]: first an infinity or NaN at another place than in the oracle, then an element over the
/// bound, then the root mean square.
pub fn check(
    what: &str,
    shape: &[usize],
    dtype: DType,
    actual: &[f64],
    oracle: &[f64],
    naive: &[f64],
    factor: f64,
) -> Result<Closeness, Mismatch> {
    check_special(what, shape, actual, oracle)?;
    let (_, naive_error) = worst(naive, oracle);
    let allowed = factor * naive_error + allowed_ulps(dtype) * ulp(largest(oracle), dtype);
    let closeness = check_elements(what, shape, dtype, actual, oracle, allowed)?;
    let roundoffs = if dtype == DType::F32 { 4.0 } else { 2.0 };
    let rms_allowed = factor * relative_rms(naive, oracle) + roundoffs * unit_roundoff(dtype);
    if closeness.relative_rms > rms_allowed {
        let (index, _) = worst(actual, oracle);
        return Err(Mismatch {
            what: what.to_string(),
            coordinate: coordinate(index, shape),
            actual: actual[index],
            oracle: oracle[index],
            reason: format!("relative RMS error {:e} is over {rms_allowed:e}", closeness.relative_rms),
        });
    }
    Ok(closeness)
}

/// Holds f32 log-sum-exps to `2^-18 * (1 + the largest absolute score)`: the rounding of a score's sum in f32 and the
/// hardware's base-2 logarithm stay well below it.
///
/// # Errors
/// The worst [`Mismatch`].
pub fn check_lse(
    what: &str,
    shape: &[usize],
    actual: &[f64],
    oracle: &[f64],
    score_max: f64,
) -> Result<Closeness, Mismatch> {
    check_special(what, shape, actual, oracle)?;
    check_elements(what, shape, DType::F32, actual, oracle, 2f64.powi(-18) * (1.0 + score_max))
}

/// Infinities and NaNs must stand where the oracle has them.
fn check_special(what: &str, shape: &[usize], actual: &[f64], oracle: &[f64]) -> Result<(), Mismatch> {
    let mismatch = |index: usize, reason: String| Mismatch {
        what: what.to_string(),
        coordinate: coordinate(index, shape),
        actual: actual.get(index).copied().unwrap_or(f64::NAN),
        oracle: oracle.get(index).copied().unwrap_or(f64::NAN),
        reason,
    };
    if actual.len() != oracle.len() {
        return Err(mismatch(0, format!("{} elements instead of {}", actual.len(), oracle.len())));
    }
    let differs =
        |a: f64, b: f64| a.is_nan() != b.is_nan() || ((a.is_infinite() || b.is_infinite()) && !a.is_nan() && a != b);
    let count = actual.iter().zip(oracle).filter(|(a, b)| differs(**a, **b)).count();
    match actual.iter().zip(oracle).position(|(a, b)| differs(*a, *b)) {
        Some(index) => Err(mismatch(index, format!("an infinity or NaN is out of place ({count} in all)"))),
        None => Ok(()),
    }
}

/// The reason counts units of the last place at the largest result.
fn check_elements(
    what: &str,
    shape: &[usize],
    dtype: DType,
    actual: &[f64],
    oracle: &[f64],
    allowed: f64,
) -> Result<Closeness, Mismatch> {
    let (index, difference) = worst(actual, oracle);
    let closeness =
        Closeness { max_difference: difference, max_allowed: allowed, relative_rms: relative_rms(actual, oracle) };
    if difference > allowed {
        let ulp_of_largest = ulp(largest(oracle), dtype);
        return Err(Mismatch {
            what: what.to_string(),
            coordinate: coordinate(index, shape),
            actual: actual[index],
            oracle: oracle[index],
            reason: format!(
                "the difference {difference:e} ({:.2} ulp of {dtype}) is over {allowed:e} ({:.2} ulp)",
                difference / ulp_of_largest,
                allowed / ulp_of_largest
            ),
        });
    }
    Ok(closeness)
}

/// The largest finite magnitude.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().filter(|value| value.is_finite()).fold(0.0f64, |max, value| max.max(value.abs()))
}

/// The index and size of the largest finite difference.
fn worst(actual: &[f64], oracle: &[f64]) -> (usize, f64) {
    actual
        .iter()
        .zip(oracle)
        .enumerate()
        .filter(|(_, (_, oracle))| oracle.is_finite())
        .map(|(index, (actual, oracle))| (index, (actual - oracle).abs()))
        .fold((0, 0.0), |worst, next| if next.1 > worst.1 { next } else { worst })
}

/// Root mean square of the finite differences over that of the oracle.
fn relative_rms(actual: &[f64], oracle: &[f64]) -> f64 {
    let pairs = || actual.iter().zip(oracle).filter(|(_, oracle)| oracle.is_finite());
    let error: f64 = pairs().map(|(actual, oracle)| (actual - oracle) * (actual - oracle)).sum();
    let size: f64 = pairs().map(|(_, oracle)| oracle * oracle).sum();
    if error == 0.0 { 0.0 } else { (error / size).sqrt() }
}

fn allowed_ulps(dtype: DType) -> f64 {
    if dtype == DType::F32 { 4.0 } else { 1.0 }
}

/// The distance of neighbouring numbers of the type at `value`.
pub fn ulp(value: f64, dtype: DType) -> f64 {
    let smallest_exponent = if dtype == DType::F16 { -14 } else { -126 };
    let exponent = if value == 0.0 { smallest_exponent } else { (value.log2().floor() as i32).max(smallest_exponent) };
    2f64.powi(exponent) * 2.0 * unit_roundoff(dtype)
}

fn coordinate(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut coordinate = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        coordinate[axis] = index % shape[axis].max(1);
        index /= shape[axis].max(1);
    }
    coordinate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_results_pass_and_the_worst_coordinate_is_named() {
        let oracle = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert!(check("x", &[2, 3], DType::F16, &oracle, &oracle, &oracle, 2.0).is_ok());
        let mut actual = oracle;
        actual[4] = 5.5;
        let error = check("x", &[2, 3], DType::F16, &actual, &oracle, &oracle, 2.0).unwrap_err();
        assert_eq!((error.coordinate, error.actual, error.oracle), (vec![1, 1], 5.5, 5.0));
    }

    #[test]
    fn one_ulp_passes_and_more_does_not() {
        // The ulp of f16 at 2 is 2^-9.
        let oracle = [2.0];
        let at = |difference: f64| check("x", &[1], DType::F16, &[2.0 + difference], &oracle, &oracle, 2.0);
        assert!(at(2f64.powi(-9)).is_ok());
        assert!(at(2.1 * 2f64.powi(-9)).is_err());
    }

    #[test]
    fn misplaced_infinities_and_nans_fail_first() {
        let oracle = [0.0, f64::NEG_INFINITY, f64::NAN];
        assert!(check("x", &[3], DType::F32, &oracle, &oracle, &oracle, 2.0).is_ok());
        for (index, value) in [(0, f64::NAN), (1, 0.0), (1, f64::INFINITY), (2, 0.0)] {
            let mut actual = oracle;
            actual[index] = value;
            let error = check("x", &[3], DType::F32, &actual, &oracle, &oracle, 2.0).unwrap_err();
            assert_eq!(error.coordinate, [index]);
            assert!(error.reason.contains("out of place"), "{error}");
        }
    }

    #[test]
    fn a_drift_of_all_elements_breaks_the_mean_square() {
        // One bad element of the naive computation excuses one bad element here, not all of them.
        let oracle = vec![1.0; 100];
        let mut naive = oracle.clone();
        naive[0] = 1.01;
        let actual = vec![1.01; 100];
        let error = check("x", &[100], DType::F16, &actual, &oracle, &naive, 2.0).unwrap_err();
        assert!(error.reason.contains("RMS"), "{error}");
    }
}
