//! Softmax, ready to be timed.

use std::hint::black_box;

use anyhow::Result;
use warpfold::reference::{SoftmaxCase, compare, naive, softmax_backward, softmax_forward};
use warpfold::{DType, Device, Softmax, SoftmaxBackwardPlan, SoftmaxBackwardSpec, SoftmaxPlan, SoftmaxSpec};
use warpfold::{Tensor, Workspace};

use super::shapes::RowShape;
use super::trial::{Trial, Workshop, check_written, nans, samples, upload, values, wide};

pub struct SoftmaxTrial {
    device: Device,
    dtype: DType,
    shape: RowShape,
    pass: Pass,
    workspace: Workspace,
    sets: Vec<Set>,
    next: usize,
}

enum Pass {
    Forward(Box<SoftmaxPlan>),
    Backward(Box<SoftmaxBackwardPlan>),
}

/// Forward: x, and y as the result. Backward: y, d_y, and d_x as the result.
struct Set {
    inputs: Vec<Tensor>,
    result: Tensor,
}

impl SoftmaxTrial {
    pub fn new(workshop: &Workshop<'_>, shape: RowShape, dtype: DType, is_backward: bool) -> Result<SoftmaxTrial> {
        let (device, dims) = (workshop.device, [shape.rows, shape.columns]);
        let of = |seed| values(seed, shape.elements(), dtype, 0.3, 2.0);
        let x = upload(device, dtype, &of(1), &dims)?;
        let stream = device.stream();
        let (pass, workspace, host) = match is_backward {
            false => {
                let plan = Softmax::new().plan(&SoftmaxSpec::new(x.view().spec()), &device.target())?;
                let workspace = plan.workspace(&stream)?;
                (Pass::Forward(Box::new(plan)), workspace, vec![of(1)])
            }
            true => {
                // Weights as a forward pass gives them.
                let y = Softmax::new().forward(&x)?;
                let spec = SoftmaxBackwardSpec::new(y.view().spec(), x.view().spec());
                let plan = Softmax::new().plan_backward(&spec, &device.target())?;
                let workspace = plan.workspace(&stream)?;
                (Pass::Backward(Box::new(plan)), workspace, vec![y.to_vec_f32()?, of(2)])
            }
        };
        let set = |_| -> Result<Set> {
            let inputs = host.iter().map(|values| upload(device, dtype, values, &dims)).collect::<Result<_>>()?;
            Ok(Set { inputs, result: Tensor::zeros(device, dtype, dims)? })
        };
        let set_bytes = (host.len() + 1) * shape.elements() * dtype.size_bytes();
        let sets = (0..workshop.num_sets(set_bytes)).map(set).collect::<Result<_>>()?;
        Ok(SoftmaxTrial { device: device.clone(), dtype, shape, pass, workspace, sets, next: 0 })
    }
}

impl Trial for SoftmaxTrial {
    fn check(&mut self) -> Result<f64> {
        let RowShape { rows, columns } = self.shape;
        self.sets[0].result = nans(&self.device, self.dtype, &[rows, columns])?;
        self.next = 0;
        self.call()?;
        let actual = self.sets[0].result.to_vec_f32()?;
        check_written("the result", &actual)?;
        let host = self.sets[0].inputs.iter().map(Tensor::to_vec_f32).collect::<warpfold::Result<Vec<_>>>()?;
        let sampled = |values: &[f32]| -> Vec<f64> {
            samples(rows).flat_map(|row| wide(&values[row * columns..(row + 1) * columns])).collect()
        };
        let inputs: Vec<Vec<f64>> = host.iter().map(|values| sampled(values)).collect();
        let num_samples = samples(rows).count();
        let case = SoftmaxCase::new(&[num_samples, columns]);
        let (what, oracle, naive, factor) = match &self.pass {
            Pass::Forward(_) => {
                let naive = naive::softmax_forward(&case, self.dtype, &inputs[0]);
                ("y", softmax_forward(&case, &inputs[0]), naive, 2.0)
            }
            Pass::Backward(_) => {
                let naive = naive::softmax_backward(&case, self.dtype, &inputs[0], &inputs[1]);
                ("d_x", softmax_backward(&case, &inputs[0], &inputs[1]), naive, 3.0)
            }
        };
        let shape = [num_samples, columns];
        let found = compare::check(what, &shape, self.dtype, &sampled(&actual), &oracle, &naive, factor)?;
        Ok(found.max_difference / found.max_allowed)
    }

    fn call(&mut self) -> Result<()> {
        let stream = self.device.stream();
        let number = self.next;
        self.next = (number + 1) % self.sets.len();
        let Set { inputs, result } = &mut self.sets[number];
        match &self.pass {
            Pass::Forward(plan) => plan.forward_into(&stream, &inputs[0], result, &mut self.workspace)?,
            Pass::Backward(plan) => {
                plan.backward_into(&stream, [inputs[0].view(), inputs[1].view()], result, &mut self.workspace)?;
            }
        }
        Ok(())
    }

    fn plan(&self) -> Result<()> {
        let target = self.device.target();
        let spec = |index: usize| self.sets[0].inputs[index].view().spec();
        match &self.pass {
            Pass::Forward(_) => _ = black_box(Softmax::new().plan(&SoftmaxSpec::new(spec(0)), &target)?),
            Pass::Backward(_) => {
                _ = black_box(Softmax::new().plan_backward(&SoftmaxBackwardSpec::new(spec(0), spec(1)), &target)?);
            }
        }
        Ok(())
    }

    fn allocating_call(&self) -> Result<()> {
        let inputs = &self.sets[0].inputs;
        match &self.pass {
            Pass::Forward(_) => drop(Softmax::new().forward(&inputs[0])?),
            Pass::Backward(_) => drop(Softmax::new().backward(&inputs[0], &inputs[1])?),
        }
        Ok(())
    }

    fn flops(&self) -> Option<u64> {
        None
    }

    fn bytes(&self) -> usize {
        (self.sets[0].inputs.len() + 1) * self.shape.elements() * self.dtype.size_bytes()
    }

    fn num_sets(&self) -> usize {
        self.sets.len()
    }
}
