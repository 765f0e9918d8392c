//! Softmax and norms: the bytes that they must move, over time.

use std::fmt;

use anyhow::Result;
use half::bf16;
use warpfold::{
    DType, Device, Norm, NormBackwardInputs, NormInputs, Softmax, SoftmaxBackwardSpec, SoftmaxSpec, Tensor,
};

use crate::timing::Timer;

/// One operation on rows.
pub struct Bench {
    pub operation: &'static str,
    dtype: DType,
    shape: [usize; 2],
}

impl fmt::Display for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{}", self.dtype, self.shape[0], self.shape[1])
    }
}

pub fn benches() -> Vec<Bench> {
    let mut all = Vec::new();
    for operation in [
        "softmax forward",
        "softmax backward",
        "layer_norm forward",
        "layer_norm backward",
        "rms_norm forward",
        "rms_norm backward",
    ] {
        for dtype in [DType::BF16, DType::F32] {
            for columns in [1024, 4096, 16384] {
                all.push(Bench { operation, dtype, shape: [(64 << 20) / columns, columns] });
            }
        }
    }
    all
}

impl Bench {
    /// What has to be read and written at least.
    pub fn bytes(&self) -> f64 {
        let tensors = if self.operation.ends_with("forward") { 2 } else { 3 };
        (tensors * self.shape[0] * self.shape[1] * self.dtype.size_bytes()) as f64
    }

    fn tensor(&self, device: &Device, seed: u64, shape: &[usize]) -> Result<Tensor> {
        let mut random = fastrand::Rng::with_seed(seed);
        let count: usize = shape.iter().product();
        // A few million different numbers are enough.
        let drawn: Vec<f32> = (0..count.min(3 << 20)).map(|_| random.f32() * 2.0 - 0.7).collect();
        let values = drawn.iter().copied().cycle().take(count);
        Ok(match self.dtype {
            DType::BF16 => Tensor::from_slice(device, &values.map(bf16::from_f32).collect::<Vec<_>>(), shape)?,
            _ => Tensor::from_slice(device, &values.collect::<Vec<_>>(), shape)?,
        })
    }

    /// The times of single calls, in milliseconds.
    pub fn run(&self, device: &Device, timer: &Timer, budget_ms: f64) -> Result<Vec<f64>> {
        let (stream, target) = (device.stream(), device.target());
        let x = self.tensor(device, 1, &self.shape)?;
        let norm = if self.operation.starts_with("layer") { Norm::layer() } else { Norm::rms() };
        let [weight, bias] = [self.tensor(device, 3, &self.shape[1..])?, self.tensor(device, 4, &self.shape[1..])?];
        match self.operation {
            "softmax forward" => {
                let mut y = self.tensor(device, 0, &self.shape)?;
                let plan = Softmax::new().plan(&SoftmaxSpec::new(x.view().spec()), &target)?;
                let mut workspace = plan.workspace(&stream)?;
                timer.times_ms(&mut || Ok(plan.forward_into(&stream, &x, &mut y, &mut workspace)?), budget_ms)
            }
            "softmax backward" => {
                let (y, mut d_x) = (self.tensor(device, 2, &self.shape)?, self.tensor(device, 0, &self.shape)?);
                let spec = SoftmaxBackwardSpec::new(y.view().spec(), x.view().spec());
                let plan = Softmax::new().plan_backward(&spec, &target)?;
                let mut workspace = plan.workspace(&stream)?;
                let mut call = || Ok(plan.backward_into(&stream, [y.view(), x.view()], &mut d_x, &mut workspace)?);
                timer.times_ms(&mut call, budget_ms)
            }
            operation => {
                let is_layer = operation.starts_with("layer");
                let mut inputs = NormInputs::new(&x).weight(&weight);
                if is_layer {
                    inputs = inputs.bias(&bias);
                }
                let mut forward = norm.return_stats(true).forward(&inputs)?;
                if operation.ends_with("forward") {
                    let plan = norm.return_stats(true).plan(&inputs.spec(), &target)?;
                    let mut workspace = plan.workspace(&stream)?;
                    let mut call = || Ok(plan.forward_into(&stream, &inputs, forward.outputs(), &mut workspace)?);
                    return timer.times_ms(&mut call, budget_ms);
                }
                let d_y = self.tensor(device, 2, &self.shape)?;
                let mut inputs = NormBackwardInputs::new(&d_y, &x).weight(&weight);
                if let Some(rstd) = &forward.rstd {
                    inputs = inputs.rstd(rstd);
                }
                if let Some(mean) = &forward.mean {
                    inputs = inputs.bias(&bias).mean(mean);
                }
                let plan = norm.plan_backward(&inputs.spec(), &target)?;
                let mut gradients = norm.backward(&inputs)?;
                let mut workspace = plan.workspace(&stream)?;
                let mut call = || Ok(plan.backward_into(&stream, &inputs, gradients.outputs(), &mut workspace)?);
                timer.times_ms(&mut call, budget_ms)
            }
        }
    }
}
