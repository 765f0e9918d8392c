//! A problem that is ready to run: tensors, plan, and whether the result is right.

use anyhow::{Result, bail};
use half::{bf16, f16};
use warpfold::reference::naive;
use warpfold::variants::Variant;
use warpfold::{DType, Device, Tensor};

use super::attention::AttentionTrial;
use super::norm::NormTrial;
use super::problems::{Family, Problem};
use super::shapes::Shape;
use super::softmax::SoftmaxTrial;
use super::times::Rotation;

/// Rows of a result that are held to the oracle: the first, the last, and some between.
pub const SAMPLES: usize = 4;

/// Different numbers in a problem's tensors: a prime, so that no two rows are the same.
const PERIOD: usize = 3_000_017;

/// What is timed.
pub trait Trial {
    /// Runs into memory of NaNs and holds a sample of the results to the oracle. Returns the worst difference as a share of
    /// what is allowed.
    ///
    /// # Errors
    /// The difference that is not allowed; the device's own.
    fn check(&mut self) -> Result<f64>;

    /// The operation once, with the next set of tensors: a prepared plan, given memory.
    fn call(&mut self) -> Result<()>;

    /// Only the plan.
    fn plan(&self) -> Result<()>;

    /// The call that plans and allocates by itself.
    fn allocating_call(&self) -> Result<()>;

    /// Operations of a matrix product kind; `None` where nobody counts them.
    fn flops(&self) -> Option<u64>;

    /// What has to be read and written at least.
    fn bytes(&self) -> usize;

    /// Sets of tensors that calls rotate through.
    fn num_sets(&self) -> usize;
}

/// How trials are made.
pub struct Workshop<'a> {
    pub device: &'a Device,
    /// `None`: one set of tensors.
    pub rotation: Option<Rotation>,
    /// Kernels that take the place of those that plans choose, where they can.
    pub kernels: &'a [&'static Variant],
}

impl Workshop<'_> {
    pub fn num_sets(&self, set_bytes: usize) -> usize {
        self.rotation.map_or(1, |rotation| rotation.num_sets(set_bytes))
    }

    /// # Errors
    /// What the plan refuses; [`warpfold::Error::Cuda`] where memory runs out.
    pub fn trial(&self, problem: &Problem) -> Result<Box<dyn Trial>> {
        let Problem { operation, dtype, shape, .. } = problem;
        Ok(match (operation.family, shape) {
            (Family::Attention, Shape::Attention(shape)) => {
                Box::new(AttentionTrial::new(self, shape, *dtype, operation.is_backward)?)
            }
            (Family::Softmax, Shape::Rows(shape)) => {
                Box::new(SoftmaxTrial::new(self, *shape, *dtype, operation.is_backward)?)
            }
            (Family::LayerNorm | Family::RmsNorm, Shape::Rows(shape)) => {
                Box::new(NormTrial::new(self, operation, *shape, *dtype)?)
            }
            _ => bail!("{operation} does not compute {shape}"),
        })
    }
}

/// Numbers of the type in `centre - reach .. centre + reach`.
pub fn values(seed: u64, count: usize, dtype: DType, centre: f32, reach: f32) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let drawn: Vec<f32> =
        (0..count.min(PERIOD)).map(|_| rounded(centre + reach * (2.0 * random.f32() - 1.0), dtype)).collect();
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let more = drawn.len().min(count - values.len());
        values.extend_from_slice(&drawn[..more]);
    }
    values
}

fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// A tensor of these numbers.
pub fn upload(device: &Device, dtype: DType, values: &[f32], shape: &[usize]) -> Result<Tensor> {
    Ok(match dtype {
        DType::F16 => {
            Tensor::from_slice(device, &values.iter().copied().map(f16::from_f32).collect::<Vec<_>>(), shape)?
        }
        DType::BF16 => {
            Tensor::from_slice(device, &values.iter().copied().map(bf16::from_f32).collect::<Vec<_>>(), shape)?
        }
        _ => Tensor::from_slice(device, values, shape)?,
    })
}

/// Memory in which what is not written shows.
pub fn nans(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
    upload(device, dtype, &vec![f32::NAN; shape.iter().product()], shape)
}

pub fn wide(values: &[f32]) -> impl Iterator<Item = f64> {
    values.iter().map(|value| f64::from(*value))
}

/// The numbers of sampled rows, out of `len`, without repetitions.
pub fn samples(len: usize) -> impl Iterator<Item = usize> {
    let count = SAMPLES.min(len);
    (0..count).map(move |sample| if count == 1 { 0 } else { sample * (len - 1) / (count - 1) })
}

/// A result that is NaN anywhere was not written, or by the wrong numbers.
pub fn check_written(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| value.is_nan()) {
        Some(index) => bail!("element {index} of {name} is NaN"),
        None => Ok(()),
    }
}

/// Holds a row of a gradient to a few roundings of its operands: for rows whose unfused computation would need all others.
/// Returns the distance as a share of what is allowed.
pub fn check_near(name: &str, row: usize, dtype: DType, actual: &[f64], expected: &[f64]) -> Result<f64> {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let size = norm(&mut expected.iter().copied());
    let error = norm(&mut actual.iter().zip(expected).map(|(actual, expected)| actual - expected));
    let roundoff = naive::unit_roundoff(dtype);
    // Where a gradient cancels to nothing, what it is made of is still rounded.
    let allowed = (5.0 * roundoff + 5e-5) * size + 0.25 * roundoff + 3e-5;
    match error <= allowed {
        true => Ok(error / allowed),
        false => bail!("row {row} of {name} is off by {error:.2e} of {size:.2e}; {allowed:.2e} is allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::problems::{Operation, defaults};
    use warpfold::Target;

    #[test]
    fn samples_reach_both_ends() {
        assert_eq!(samples(100).collect::<Vec<_>>(), [0, 33, 66, 99]);
        assert_eq!(samples(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(samples(1).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn values_are_of_the_type_and_within_reach() {
        let drawn = values(1, 1000, DType::BF16, 0.1, 1.5);
        assert!(drawn.iter().all(|value| bf16::from_f32(*value).to_f32() == *value && (-1.41..=1.61).contains(value)));
        assert!(drawn.iter().sum::<f32>() > 20.0, "their mean is not 0");
        let long = values(2, PERIOD + 5, DType::F32, 0.0, 1.0);
        assert_eq!((long.len(), &long[..5]), (PERIOD + 5, &long[PERIOD..]));
    }

    #[test]
    fn rows_that_are_off_are_refused() {
        let expected = [3.0, 4.0];
        assert_eq!(check_near("d_q", 0, DType::BF16, &expected, &expected).ok(), Some(0.0));
        assert!(check_near("d_q", 0, DType::BF16, &[3.05, 4.0], &expected).is_ok_and(|share| share > 0.3));
        assert!(check_near("d_q", 0, DType::BF16, &[3.2, 4.0], &expected).is_err());
        assert!(check_near("d_q", 0, DType::F32, &[3.001, 4.0], &expected).is_err());
        assert!(check_written("y", &[0.0, f32::NAN]).is_err_and(|error| error.to_string().contains("element 1")));
    }

    /// The small problems that the emulator gets, on the CPU: every operation and option.
    #[test]
    fn right_results_agree_with_the_oracle() {
        let device = Device::cpu();
        let workshop = Workshop { device: &device, rotation: None, kernels: &[] };
        for problem in defaults(&Target::Gpu(warpfold::GpuTarget::A100), true) {
            let mut trial = workshop.trial(&problem).expect("the CPU takes them all");
            match trial.check() {
                Ok(share) => assert!(share > 0.0 && share <= 1.0, "{problem:?}: {share}"),
                Err(error) => panic!("{problem:?}: {error:#}"),
            }
            trial.call().expect("a call");
            trial.plan().expect("a plan");
            trial.allocating_call().expect("a call");
            assert_eq!(trial.num_sets(), 1);
        }
    }

    #[test]
    fn bytes_are_those_of_inputs_and_outputs() {
        let device = Device::cpu();
        let rotation = Rotation { cache_bytes: 10_000, memory_bytes: 1 << 30 };
        let workshop = Workshop { device: &device, rotation: Some(rotation), kernels: &[] };
        let trial = |name: &str, shape: &str| {
            let operation = Operation::named(name).expect("an operation")[0];
            let shape = shape.parse().unwrap_or_else(|error| panic!("{error}"));
            workshop.trial(&Problem { operation, dtype: DType::F32, shape, series: None }).expect("a trial")
        };
        let softmax = trial("softmax-backward", "8x16");
        assert_eq!((softmax.bytes(), softmax.flops(), softmax.num_sets()), (3 * 8 * 16 * 4, None, 20));
        // x, weight, bias; y, mean, rstd.
        assert_eq!(trial("layer_norm-forward", "8x16").bytes(), 4 * (2 * 8 * 16 + 2 * 16 + 2 * 8));
        // d_y, x, weight, rstd; d_x, d_weight.
        assert_eq!(trial("rms_norm-backward", "8x16").bytes(), 4 * (3 * 8 * 16 + 2 * 16 + 8));
        // q, k, v, the output and lse.
        let attention = trial("attention-forward", "s4/6,h2/1,d8");
        assert_eq!(attention.bytes(), 4 * (2 * 4 * 8 + 2 * 6 * 8 + 2 * 4 * 8 + 2 * 4));
        assert_eq!(attention.flops(), Some(4 * 2 * 4 * 6 * 8));
    }
}
