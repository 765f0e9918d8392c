//! The tensors of a call, and what a plan reads of them.

use crate::tensor::{Tensor, TensorMut, TensorRef, TensorSpec};

/// The tensors of a forward call.
#[derive(Clone, Copy)]
pub struct NormInputs<'a> {
    pub(crate) x: TensorRef<'a>,
    pub(crate) residual: Option<TensorRef<'a>>,
    pub(crate) weight: Option<TensorRef<'a>>,
    pub(crate) bias: Option<TensorRef<'a>>,
    pub(crate) dropout_seed: u64,
    pub(crate) dropout_offset: u32,
}

impl<'a> NormInputs<'a> {
    /// Normalises x, `[..., columns]`; weight 1, bias 0.
    pub fn new(x: impl Into<TensorRef<'a>>) -> NormInputs<'a> {
        NormInputs { x: x.into(), residual: None, weight: None, bias: None, dropout_seed: 0, dropout_offset: 0 }
    }

    /// Adds a residual, of x's shape, before the norm. The sum has the residual's type and is a result of its own.
    pub fn residual(mut self, residual: impl Into<TensorRef<'a>>) -> NormInputs<'a> {
        self.residual = Some(residual.into());
        self
    }

    /// Multiplies each column by a weight, `[columns]`, of any float type.
    pub fn weight(mut self, weight: impl Into<TensorRef<'a>>) -> NormInputs<'a> {
        self.weight = Some(weight.into());
        self
    }

    /// Adds a bias to each column, `[columns]`, of any float type.
    pub fn bias(mut self, bias: impl Into<TensorRef<'a>>) -> NormInputs<'a> {
        self.bias = Some(bias.into());
        self
    }

    /// The state of the dropout's random numbers: give every training step another offset, or another seed, and the backward
    /// pass the same as its forward pass.
    pub fn dropout_state(mut self, seed: u64, offset: u32) -> NormInputs<'a> {
        (self.dropout_seed, self.dropout_offset) = (seed, offset);
        self
    }

    /// What a plan reads of these tensors.
    pub fn spec(&self) -> NormSpec {
        let spec = |tensor: Option<TensorRef<'_>>| tensor.map(|tensor| tensor.spec());
        NormSpec {
            x: self.x.spec(),
            residual: spec(self.residual),
            weight: spec(self.weight),
            bias: spec(self.bias),
            output: None,
            sum: None,
        }
    }
}

/// What a plan of a forward call reads of it: no contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormSpec {
    pub(crate) x: TensorSpec,
    pub(crate) residual: Option<TensorSpec>,
    pub(crate) weight: Option<TensorSpec>,
    pub(crate) bias: Option<TensorSpec>,
    pub(crate) output: Option<TensorSpec>,
    pub(crate) sum: Option<TensorSpec>,
}

impl NormSpec {
    /// The norm of such a tensor.
    pub fn new(x: TensorSpec) -> NormSpec {
        NormSpec { x, residual: None, weight: None, bias: None, output: None, sum: None }
    }

    /// With a residual.
    pub fn residual(mut self, residual: TensorSpec) -> NormSpec {
        self.residual = Some(residual);
        self
    }

    /// With a weight.
    pub fn weight(mut self, weight: TensorSpec) -> NormSpec {
        self.weight = Some(weight);
        self
    }

    /// With a bias.
    pub fn bias(mut self, bias: TensorSpec) -> NormSpec {
        self.bias = Some(bias);
        self
    }

    /// Plans for an output other than the one that the owning call makes: of any float type.
    pub fn output(mut self, output: TensorSpec) -> NormSpec {
        self.output = Some(output);
        self
    }

    /// Plans for a sum of x and residual other than the one that the owning call makes: of any float type, to which the sum
    /// is rounded before it is normalised.
    pub fn sum(mut self, sum: TensorSpec) -> NormSpec {
        self.sum = Some(sum);
        self
    }
}

/// The result of a forward pass.
#[derive(Debug)]
pub struct NormForward {
    /// The normalised tensor, of x's shape.
    pub output: Tensor,
    /// What was normalised, `dropout(x) + residual`, where there is dropout or a residual. The backward pass needs it, and so
    /// does the next residual connection.
    pub sum: Option<Tensor>,
    /// Each row's mean, f32, when asked for; RMS norm has none.
    pub mean: Option<Tensor>,
    /// What each row was multiplied by, f32, when asked for.
    pub rstd: Option<Tensor>,
}

impl NormForward {
    /// Where a planned call writes these results.
    pub fn outputs(&mut self) -> NormOutputs<'_> {
        NormOutputs {
            output: (&mut self.output).into(),
            sum: self.sum.as_mut().map(Into::into),
            mean: self.mean.as_mut().map(Into::into),
            rstd: self.rstd.as_mut().map(Into::into),
        }
    }
}

/// Where a planned call writes.
pub struct NormOutputs<'a> {
    pub(crate) output: TensorMut<'a>,
    pub(crate) sum: Option<TensorMut<'a>>,
    pub(crate) mean: Option<TensorMut<'a>>,
    pub(crate) rstd: Option<TensorMut<'a>>,
}

impl NormOutputs<'_> {
    /// The same views for a shorter time.
    pub(crate) fn reborrow(&mut self) -> NormOutputs<'_> {
        NormOutputs {
            output: self.output.reborrow(),
            sum: self.sum.as_mut().map(TensorMut::reborrow),
            mean: self.mean.as_mut().map(TensorMut::reborrow),
            rstd: self.rstd.as_mut().map(TensorMut::reborrow),
        }
    }
}

impl<'a> NormOutputs<'a> {
    /// Writes the normalised tensor only.
    pub fn new(output: impl Into<TensorMut<'a>>) -> NormOutputs<'a> {
        NormOutputs { output: output.into(), sum: None, mean: None, rstd: None }
    }

    /// Writes the sum of x and residual too.
    pub fn sum(mut self, sum: impl Into<TensorMut<'a>>) -> NormOutputs<'a> {
        self.sum = Some(sum.into());
        self
    }

    /// Writes the mean too: f32, of x's leading dimensions, contiguous.
    pub fn mean(mut self, mean: impl Into<TensorMut<'a>>) -> NormOutputs<'a> {
        self.mean = Some(mean.into());
        self
    }

    /// Writes rstd too: f32, of x's leading dimensions, contiguous.
    pub fn rstd(mut self, rstd: impl Into<TensorMut<'a>>) -> NormOutputs<'a> {
        self.rstd = Some(rstd.into());
        self
    }
}

/// The tensors of a backward call.
#[derive(Clone, Copy)]
pub struct NormBackwardInputs<'a> {
    pub(crate) d_y: TensorRef<'a>,
    pub(crate) sum: TensorRef<'a>,
    pub(crate) weight: Option<TensorRef<'a>>,
    pub(crate) bias: Option<TensorRef<'a>>,
    pub(crate) mean: Option<TensorRef<'a>>,
    pub(crate) rstd: Option<TensorRef<'a>>,
    pub(crate) d_sum: Option<TensorRef<'a>>,
    pub(crate) dropout_seed: u64,
    pub(crate) dropout_offset: u32,
}

impl<'a> NormBackwardInputs<'a> {
    /// The gradient of the output, and what was normalised: x, or [`NormForward::sum`] where there is one.
    pub fn new(d_y: impl Into<TensorRef<'a>>, sum: impl Into<TensorRef<'a>>) -> NormBackwardInputs<'a> {
        NormBackwardInputs {
            d_y: d_y.into(),
            sum: sum.into(),
            weight: None,
            bias: None,
            mean: None,
            rstd: None,
            d_sum: None,
            dropout_seed: 0,
            dropout_offset: 0,
        }
    }

    /// The weight of the forward pass.
    pub fn weight(mut self, weight: impl Into<TensorRef<'a>>) -> NormBackwardInputs<'a> {
        self.weight = Some(weight.into());
        self
    }

    /// The bias of the forward pass: [`crate::Norm::backward`] computes its gradient. No gradient depends on its values.
    pub fn bias(mut self, bias: impl Into<TensorRef<'a>>) -> NormBackwardInputs<'a> {
        self.bias = Some(bias.into());
        self
    }

    /// The mean that the forward pass returned. Without statistics they are computed again.
    pub fn mean(mut self, mean: impl Into<TensorRef<'a>>) -> NormBackwardInputs<'a> {
        self.mean = Some(mean.into());
        self
    }

    /// The rstd that the forward pass returned; a layer norm needs the mean with it.
    pub fn rstd(mut self, rstd: impl Into<TensorRef<'a>>) -> NormBackwardInputs<'a> {
        self.rstd = Some(rstd.into());
        self
    }

    /// The gradient that the sum of x and residual has from its other uses: it is added to that of the norm.
    pub fn d_sum(mut self, d_sum: impl Into<TensorRef<'a>>) -> NormBackwardInputs<'a> {
        self.d_sum = Some(d_sum.into());
        self
    }

    /// The state of the dropout's random numbers that the forward pass had.
    pub fn dropout_state(mut self, seed: u64, offset: u32) -> NormBackwardInputs<'a> {
        (self.dropout_seed, self.dropout_offset) = (seed, offset);
        self
    }

    /// What a plan reads of these tensors.
    pub fn spec(&self) -> NormBackwardSpec {
        let spec = |tensor: Option<TensorRef<'_>>| tensor.map(|tensor| tensor.spec());
        NormBackwardSpec {
            d_y: self.d_y.spec(),
            sum: self.sum.spec(),
            weight: spec(self.weight),
            bias: spec(self.bias),
            has_stats: self.rstd.is_some(),
            d_sum: spec(self.d_sum),
            d_x: None,
            d_residual: None,
        }
    }
}

/// What a plan of a backward call reads of it: no contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormBackwardSpec {
    pub(crate) d_y: TensorSpec,
    pub(crate) sum: TensorSpec,
    pub(crate) weight: Option<TensorSpec>,
    pub(crate) bias: Option<TensorSpec>,
    pub(crate) has_stats: bool,
    pub(crate) d_sum: Option<TensorSpec>,
    pub(crate) d_x: Option<TensorSpec>,
    pub(crate) d_residual: Option<TensorSpec>,
}

impl NormBackwardSpec {
    /// The gradient of the output, and what was normalised; without statistics.
    pub fn new(d_y: TensorSpec, sum: TensorSpec) -> NormBackwardSpec {
        NormBackwardSpec {
            d_y,
            sum,
            weight: None,
            bias: None,
            has_stats: false,
            d_sum: None,
            d_x: None,
            d_residual: None,
        }
    }

    /// With a weight, and its gradient.
    pub fn weight(mut self, weight: TensorSpec) -> NormBackwardSpec {
        self.weight = Some(weight);
        self
    }

    /// With the gradient of a bias.
    pub fn bias(mut self, bias: TensorSpec) -> NormBackwardSpec {
        self.bias = Some(bias);
        self
    }

    /// With the statistics of the forward pass.
    pub fn stats(mut self) -> NormBackwardSpec {
        self.has_stats = true;
        self
    }

    /// With a gradient of the sum from its other uses.
    pub fn d_sum(mut self, d_sum: TensorSpec) -> NormBackwardSpec {
        self.d_sum = Some(d_sum);
        self
    }

    /// Plans for a gradient of x other than the one that the owning call makes: of any float type.
    pub fn d_x(mut self, d_x: TensorSpec) -> NormBackwardSpec {
        self.d_x = Some(d_x);
        self
    }

    /// Plans for a gradient of the residual: of any float type. Without dropout it has the values of that of x, so that it is
    /// only needed in another type.
    pub fn d_residual(mut self, d_residual: TensorSpec) -> NormBackwardSpec {
        self.d_residual = Some(d_residual);
        self
    }
}

/// The gradients of a norm.
#[derive(Debug)]
pub struct NormGradients {
    /// Of x; without dropout, of the residual too.
    pub d_x: Tensor,
    /// Of the residual, under dropout.
    pub d_residual: Option<Tensor>,
    /// Of the weight, in its type, if it was given.
    pub d_weight: Option<Tensor>,
    /// Of the bias, in its type, if it was given.
    pub d_bias: Option<Tensor>,
}

impl NormGradients {
    /// Where a planned call writes these results.
    pub fn outputs(&mut self) -> NormGradientOutputs<'_> {
        NormGradientOutputs {
            d_x: (&mut self.d_x).into(),
            d_residual: self.d_residual.as_mut().map(Into::into),
            d_weight: self.d_weight.as_mut().map(Into::into),
            d_bias: self.d_bias.as_mut().map(Into::into),
        }
    }
}

/// Where a planned backward call writes. What is left out is not computed.
pub struct NormGradientOutputs<'a> {
    pub(crate) d_x: TensorMut<'a>,
    pub(crate) d_residual: Option<TensorMut<'a>>,
    pub(crate) d_weight: Option<TensorMut<'a>>,
    pub(crate) d_bias: Option<TensorMut<'a>>,
}

impl NormGradientOutputs<'_> {
    /// The same views for a shorter time.
    pub(crate) fn reborrow(&mut self) -> NormGradientOutputs<'_> {
        NormGradientOutputs {
            d_x: self.d_x.reborrow(),
            d_residual: self.d_residual.as_mut().map(TensorMut::reborrow),
            d_weight: self.d_weight.as_mut().map(TensorMut::reborrow),
            d_bias: self.d_bias.as_mut().map(TensorMut::reborrow),
        }
    }
}

impl<'a> NormGradientOutputs<'a> {
    /// Writes the gradient of x only.
    pub fn new(d_x: impl Into<TensorMut<'a>>) -> NormGradientOutputs<'a> {
        NormGradientOutputs { d_x: d_x.into(), d_residual: None, d_weight: None, d_bias: None }
    }

    /// Writes the gradient of the residual too.
    pub fn d_residual(mut self, d_residual: impl Into<TensorMut<'a>>) -> NormGradientOutputs<'a> {
        self.d_residual = Some(d_residual.into());
        self
    }

    /// Writes the gradient of the weight too: `[columns]`, of the weight's type.
    pub fn d_weight(mut self, d_weight: impl Into<TensorMut<'a>>) -> NormGradientOutputs<'a> {
        self.d_weight = Some(d_weight.into());
        self
    }

    /// Writes the gradient of the bias too: `[columns]`, of the bias's type.
    pub fn d_bias(mut self, d_bias: impl Into<TensorMut<'a>>) -> NormGradientOutputs<'a> {
        self.d_bias = Some(d_bias.into());
        self
    }
}
