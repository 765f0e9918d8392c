//! The tensors of a call, and what a plan reads of them.

use crate::tensor::{Tensor, TensorRef, TensorSpec};

/// The tensors of a forward call.
#[derive(Clone, Copy)]
pub struct SoftmaxInputs<'a> {
    pub(crate) x: Option<TensorRef<'a>>,
    pub(crate) bias: Option<TensorRef<'a>>,
    pub(crate) mask: Option<TensorRef<'a>>,
}

impl<'a> SoftmaxInputs<'a> {
    /// Softmax of x, `[..., columns]`.
    pub fn new(x: impl Into<TensorRef<'a>>) -> SoftmaxInputs<'a> {
        SoftmaxInputs { x: Some(x.into()), bias: None, mask: None }
    }

    /// Softmax of what the output holds, which the result replaces.
    pub fn in_place() -> SoftmaxInputs<'a> {
        SoftmaxInputs { x: None, bias: None, mask: None }
    }

    /// Adds a bias to the scaled x, of x's type or f32 and of x's shape, or with dimensions missing in front or of size 1
    /// where it is broadcast.
    pub fn bias(mut self, bias: impl Into<TensorRef<'a>>) -> SoftmaxInputs<'a> {
        self.bias = Some(bias.into());
        self
    }

    /// Shows only the elements where the mask, u8, is not 0. Shapes as of a bias.
    pub fn mask(mut self, mask: impl Into<TensorRef<'a>>) -> SoftmaxInputs<'a> {
        self.mask = Some(mask.into());
        self
    }
}

impl<'a> From<&'a Tensor> for SoftmaxInputs<'a> {
    fn from(x: &'a Tensor) -> SoftmaxInputs<'a> {
        SoftmaxInputs::new(x)
    }
}

impl<'a> From<TensorRef<'a>> for SoftmaxInputs<'a> {
    fn from(x: TensorRef<'a>) -> SoftmaxInputs<'a> {
        SoftmaxInputs::new(x)
    }
}

/// What a plan of a forward call reads of it: no contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftmaxSpec {
    pub(crate) x: TensorSpec,
    pub(crate) bias: Option<TensorSpec>,
    pub(crate) mask: Option<TensorSpec>,
    pub(crate) output: Option<TensorSpec>,
    pub(crate) in_place: bool,
}

impl SoftmaxSpec {
    /// Softmax of such a tensor.
    pub fn new(x: TensorSpec) -> SoftmaxSpec {
        SoftmaxSpec { x, bias: None, mask: None, output: None, in_place: false }
    }

    /// With a bias.
    pub fn bias(mut self, bias: TensorSpec) -> SoftmaxSpec {
        self.bias = Some(bias);
        self
    }

    /// With a mask.
    pub fn mask(mut self, mask: TensorSpec) -> SoftmaxSpec {
        self.mask = Some(mask);
        self
    }

    /// Plans for an output other than the one that the owning call makes.
    pub fn output(mut self, output: TensorSpec) -> SoftmaxSpec {
        self.output = Some(output);
        self
    }

    /// Plans for a result that replaces x.
    pub fn in_place(mut self) -> SoftmaxSpec {
        self.in_place = true;
        self
    }

    /// A call's inputs, with x or in its place the tensor that is replaced.
    pub(crate) fn of(inputs: &SoftmaxInputs<'_>, replaced: Option<TensorSpec>) -> SoftmaxSpec {
        let spec = |tensor: Option<TensorRef<'_>>| tensor.map(|tensor| tensor.spec());
        SoftmaxSpec {
            x: spec(inputs.x).or(replaced).expect("x is given, or what it is in"),
            bias: spec(inputs.bias),
            mask: spec(inputs.mask),
            output: None,
            in_place: inputs.x.is_none(),
        }
    }
}

/// What a plan of a backward call reads of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftmaxBackwardSpec {
    pub(crate) y: TensorSpec,
    pub(crate) d_y: TensorSpec,
    pub(crate) d_x: Option<TensorSpec>,
    pub(crate) in_place: bool,
}

impl SoftmaxBackwardSpec {
    /// The result of the forward call, and the gradient with respect to it.
    pub fn new(y: TensorSpec, d_y: TensorSpec) -> SoftmaxBackwardSpec {
        SoftmaxBackwardSpec { y, d_y, d_x: None, in_place: false }
    }

    /// Plans for a result other than the one that the owning call makes.
    pub fn d_x(mut self, d_x: TensorSpec) -> SoftmaxBackwardSpec {
        self.d_x = Some(d_x);
        self
    }

    /// Plans for a result that replaces d_y.
    pub fn in_place(mut self) -> SoftmaxBackwardSpec {
        self.in_place = true;
        self
    }
}
