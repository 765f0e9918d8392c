//! Layer norm and RMS norm.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use warpfold::{DType, Layout, Norm, NormBackwardInputs, NormGradientOutputs, NormInputs, NormOutputs};

use crate::array::Array;
use crate::call::Call;
use crate::error::{exception, guarded};

/// Layer norm over the last axis, with what stands before it in a transformer: dropout and a residual.
///
/// s = dropout(x) + residual; y = (s - mean(s)) / sqrt(var(s) + eps) * weight + bias
///
/// Shapes
///     x and residual [..., columns], any strides but for the last dimension; weight and bias [columns]. Types may differ,
///     each of float32, float16 and bfloat16; sums are float32. y has x's type, s the residual's.
///
/// Options
///     zero_centered: multiplies by 1 + weight.
///     residual: is added to x before the norm.
///     dropout, seed, offset: of x, before the residual is added; the state of the random numbers (64 and 32 bits).
///     return_stats: also return mean and rstd, float32 [...].
///     out: where to write y, apart from the inputs.
///     device: None runs where x is; "emulator:sm_80" runs the CUDA kernels on the CPU, for arrays in host memory.
///
/// Returns y; with a residual or dropout (y, s), where s is what was normalised: the residual stream from here on. With
/// return_stats, mean and rstd follow. Raises ValueError, TypeError and RuntimeError as `attention` does.
///
/// >>> import numpy as np, warpfold as wf
/// >>> wf.layer_norm(np.array([[1.0, 3.0]], dtype=np.float32), eps=0.0)
/// array([[-1.,  1.]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (x, weight = None, bias = None, eps = 1e-5, *, zero_centered = false, residual = None, dropout = 0.0, seed = 0,
                    offset = 0, return_stats = false, out = None, device = None))]
#[expect(clippy::too_many_arguments, reason = "they are keywords of Python's")]
pub fn layer_norm<'py>(
    x: &Bound<'py, PyAny>,
    weight: Option<Bound<'py, PyAny>>,
    bias: Option<Bound<'py, PyAny>>,
    eps: f32,
    zero_centered: bool,
    residual: Option<Bound<'py, PyAny>>,
    dropout: f32,
    seed: u64,
    offset: u32,
    return_stats: bool,
    out: Option<&Bound<'py, PyAny>>,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let norm = Norm::layer().eps(eps).zero_centered(zero_centered).dropout(dropout);
    let arrays = Forward { x, weight, bias, residual, out, device };
    guarded(|| arrays.run(&norm, (seed, offset), if return_stats { 2 } else { 0 }, dropout > 0.0))
}

/// RMS norm over the last axis: `layer_norm` without mean and bias.
///
/// s = dropout(x) + residual; y = s / sqrt(mean(s^2) + eps) * weight
///
/// Shapes, options and errors are those of `layer_norm`. Returns y; with a residual or dropout (y, s); with return_stats, rstd
/// follows, float32 [...].
///
/// >>> import numpy as np, warpfold as wf
/// >>> wf.rms_norm(np.array([[3.0, 4.0]], dtype=np.float32), eps=0.0).round(3)
/// array([[0.849, 1.131]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (x, weight = None, eps = 1e-6, *, zero_centered = false, residual = None, dropout = 0.0, seed = 0, offset = 0,
                    return_stats = false, out = None, device = None))]
#[expect(clippy::too_many_arguments, reason = "they are keywords of Python's")]
pub fn rms_norm<'py>(
    x: &Bound<'py, PyAny>,
    weight: Option<Bound<'py, PyAny>>,
    eps: f32,
    zero_centered: bool,
    residual: Option<Bound<'py, PyAny>>,
    dropout: f32,
    seed: u64,
    offset: u32,
    return_stats: bool,
    out: Option<&Bound<'py, PyAny>>,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let norm = Norm::rms().eps(eps).zero_centered(zero_centered).dropout(dropout);
    let arrays = Forward { x, weight, bias: None, residual, out, device };
    guarded(|| arrays.run(&norm, (seed, offset), usize::from(return_stats), dropout > 0.0))
}

/// The gradients of `layer_norm`.
///
/// Shapes
///     dy [..., columns], the gradient of y; x what was normalised, of the same shape: x, or s where there was a residual or
///     dropout; weight [columns] or None; mean and rstd of the forward call, or None to compute them again from eps.
///
/// Options
///     bias: the bias, if the weight does not stand for its type; its values do not matter.
///     d_residual: the gradient that s has from its other uses, which is added.
///     zero_centered, dropout, seed, offset: those of the forward call.
///
/// Returns (dx, dw, db): dx of dy's type, dw of the weight's, db of the bias's (the weight's, if none is given); None for what
/// is not there. With dropout, or where x has another type than dy, the residual's gradient differs from dx: (dx, d_residual,
/// dw, db). Sums over rows have a fixed order: the same call gives the same bits.
///
/// >>> import numpy as np, warpfold as wf
/// >>> x, weight = np.array([[1.0, 3.0], [5.0, 11.0]], np.float32), np.array([1.0, 2.0], np.float32)
/// >>> y, mean, rstd = wf.layer_norm(x, weight, eps=0.0, return_stats=True)
/// >>> dx, dw, db = wf.layer_norm_backward(np.eye(2, dtype=np.float32), x, weight, mean, rstd)
/// >>> dw
/// array([-1.,  1.], dtype=float32)
#[pyfunction]
#[pyo3(signature = (dy, x, weight = None, mean = None, rstd = None, *, bias = None, eps = 1e-5, d_residual = None,
                    zero_centered = false, dropout = 0.0, seed = 0, offset = 0, device = None))]
#[expect(clippy::too_many_arguments, reason = "they are keywords of Python's")]
pub fn layer_norm_backward<'py>(
    dy: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    weight: Option<Bound<'py, PyAny>>,
    mean: Option<Bound<'py, PyAny>>,
    rstd: Option<Bound<'py, PyAny>>,
    bias: Option<Bound<'py, PyAny>>,
    eps: f32,
    d_residual: Option<Bound<'py, PyAny>>,
    zero_centered: bool,
    dropout: f32,
    seed: u64,
    offset: u32,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let norm = Norm::layer().eps(eps).zero_centered(zero_centered).dropout(dropout);
    let bias = bias.or_else(|| weight.clone());
    let arrays = Backward { dy, x, weight, bias, mean, rstd, d_residual, device };
    guarded(|| arrays.run(&norm, (seed, offset), dropout > 0.0, true))
}

/// The gradients of `rms_norm`: (dx, dw), or (dx, d_residual, dw), as `layer_norm_backward` has them.
///
/// >>> import numpy as np, warpfold as wf
/// >>> x, weight = np.array([[3.0, 4.0]], np.float32), np.ones(2, np.float32)
/// >>> y, rstd = wf.rms_norm(x, weight, return_stats=True)
/// >>> dx, dw = wf.rms_norm_backward(np.ones_like(y), x, weight, rstd)
/// >>> dw.round(3)
/// array([0.849, 1.131], dtype=float32)
#[pyfunction]
#[pyo3(signature = (dy, x, weight = None, rstd = None, *, eps = 1e-6, d_residual = None, zero_centered = false, dropout = 0.0,
                    seed = 0, offset = 0, device = None))]
#[expect(clippy::too_many_arguments, reason = "they are keywords of Python's")]
pub fn rms_norm_backward<'py>(
    dy: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    weight: Option<Bound<'py, PyAny>>,
    rstd: Option<Bound<'py, PyAny>>,
    eps: f32,
    d_residual: Option<Bound<'py, PyAny>>,
    zero_centered: bool,
    dropout: f32,
    seed: u64,
    offset: u32,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let norm = Norm::rms().eps(eps).zero_centered(zero_centered).dropout(dropout);
    let arrays = Backward { dy, x, weight, bias: None, mean: None, rstd, d_residual, device };
    guarded(|| arrays.run(&norm, (seed, offset), dropout > 0.0, false))
}

/// The arrays of a forward call.
struct Forward<'a, 'py> {
    x: &'a Bound<'py, PyAny>,
    weight: Option<Bound<'py, PyAny>>,
    bias: Option<Bound<'py, PyAny>>,
    residual: Option<Bound<'py, PyAny>>,
    out: Option<&'a Bound<'py, PyAny>>,
    device: Option<&'a Bound<'py, PyAny>>,
}

impl<'py> Forward<'_, 'py> {
    /// Returns y, the sum if there is one, and the last of (mean, rstd) as many as are wanted.
    fn run(&self, norm: &Norm, random: (u64, u32), num_stats: usize, has_dropout: bool) -> PyResult<Bound<'py, PyAny>> {
        let call = Call::new("x", self.x, self.device)?;
        let device = &call.device;
        let x = call.read("x", self.x)?;
        let [weight, bias, residual] = [
            call.read_if("weight", &self.weight)?,
            call.read_if("bias", &self.bias)?,
            call.read_if("residual", &self.residual)?,
        ];
        let mut inputs = NormInputs::new(x.view(device)?).dropout_state(random.0, random.1);
        if let Some(weight) = &weight {
            inputs = inputs.weight(weight.view(device)?);
        }
        if let Some(bias) = &bias {
            inputs = inputs.bias(bias.view(device)?);
        }
        if let Some(residual) = &residual {
            inputs = inputs.residual(residual.view(device)?);
        }
        // Everything is checked before memory is asked for.
        norm.plan(&inputs.spec(), &device.target()).map_err(exception)?;

        let compact = x.layout().compact();
        let reads: Vec<_> =
            [Some(&x), weight.as_ref(), bias.as_ref(), residual.as_ref()].into_iter().flatten().collect();
        let mut y = call.result(self.out, (x.dtype(), &compact), &reads)?;
        let mut sum = match (&residual, has_dropout) {
            (Some(residual), _) => Some(call.create(residual.dtype(), &compact)?),
            (None, true) => Some(call.create(x.dtype(), &compact)?),
            (None, false) => None,
        };
        let shape = x.layout().shape();
        let of_rows = Layout::contiguous(&shape[..shape.len() - 1]).map_err(exception)?;
        let stats = (0..num_stats).map(|_| call.create(DType::F32, &of_rows));
        let mut stats = stats.collect::<PyResult<Vec<_>>>()?;

        let mut spec = inputs.spec().output(y.spec(device)?);
        if let Some(sum) = &sum {
            spec = spec.sum(sum.spec(device)?);
        }
        let plan = norm.plan(&spec, &device.target()).map_err(exception)?;
        let mut outputs = NormOutputs::new(y.view_mut(device)?);
        if let Some(sum) = &mut sum {
            outputs = outputs.sum(sum.view_mut(device)?);
        }
        match stats.as_mut_slice() {
            [rstd] => outputs = outputs.rstd(rstd.view_mut(device)?),
            [mean, rstd] => outputs = outputs.mean(mean.view_mut(device)?).rstd(rstd.view_mut(device)?),
            _ => {}
        }
        call.run(|stream| {
            let mut workspace = plan.workspace(stream)?;
            plan.forward_into(stream, &inputs, outputs, &mut workspace)
        })?;
        let results = [y].into_iter().chain(sum).chain(stats);
        let mut results = results.map(|result| call.finish(result)).collect::<PyResult<Vec<_>>>()?;
        match results.len() {
            1 => Ok(results.remove(0)),
            _ => Ok(PyTuple::new(self.x.py(), results)?.into_any()),
        }
    }
}

/// The arrays of a backward call.
struct Backward<'a, 'py> {
    dy: &'a Bound<'py, PyAny>,
    x: &'a Bound<'py, PyAny>,
    weight: Option<Bound<'py, PyAny>>,
    bias: Option<Bound<'py, PyAny>>,
    mean: Option<Bound<'py, PyAny>>,
    rstd: Option<Bound<'py, PyAny>>,
    d_residual: Option<Bound<'py, PyAny>>,
    device: Option<&'a Bound<'py, PyAny>>,
}

impl<'py> Backward<'_, 'py> {
    fn run(&self, norm: &Norm, random: (u64, u32), has_dropout: bool, has_bias: bool) -> PyResult<Bound<'py, PyTuple>> {
        let call = Call::new("x", self.x, self.device)?;
        let device = &call.device;
        let (dy, x) = (call.read("dy", self.dy)?, call.read("x", self.x)?);
        let [weight, bias, mean, rstd, d_sum] = [
            call.read_if("weight", &self.weight)?,
            call.read_if("bias", &self.bias)?,
            call.read_if("mean", &self.mean)?,
            call.read_if("rstd", &self.rstd)?,
            call.read_if("d_residual", &self.d_residual)?,
        ];
        let mut inputs = NormBackwardInputs::new(dy.view(device)?, x.view(device)?).dropout_state(random.0, random.1);
        if let Some(weight) = &weight {
            inputs = inputs.weight(weight.view(device)?);
        }
        if let Some(bias) = &bias {
            inputs = inputs.bias(bias.view(device)?);
        }
        if let Some(mean) = &mean {
            inputs = inputs.mean(mean.view(device)?);
        }
        if let Some(rstd) = &rstd {
            inputs = inputs.rstd(rstd.view(device)?);
        }
        if let Some(d_sum) = &d_sum {
            inputs = inputs.d_sum(d_sum.view(device)?);
        }
        // Everything is checked before memory is asked for.
        norm.plan_backward(&inputs.spec(), &device.target()).map_err(exception)?;

        let compact = x.layout().compact();
        let mut d_x = call.create(dy.dtype(), &compact)?;
        let is_apart = has_dropout || x.dtype() != dy.dtype();
        let mut d_residual = is_apart.then(|| call.create(x.dtype(), &compact)).transpose()?;
        let vector = |of: &Option<Array<'py>>| -> PyResult<Option<Array<'py>>> {
            of.as_ref().map(|of| call.create(of.dtype(), &of.layout().compact())).transpose()
        };
        let (mut d_weight, mut d_bias) = (vector(&weight)?, vector(&bias)?);

        let mut spec = inputs.spec().d_x(d_x.spec(device)?);
        if let Some(d_residual) = &d_residual {
            spec = spec.d_residual(d_residual.spec(device)?);
        }
        let plan = norm.plan_backward(&spec, &device.target()).map_err(exception)?;
        let mut outputs = NormGradientOutputs::new(d_x.view_mut(device)?);
        if let Some(d_residual) = &mut d_residual {
            outputs = outputs.d_residual(d_residual.view_mut(device)?);
        }
        if let Some(d_weight) = &mut d_weight {
            outputs = outputs.d_weight(d_weight.view_mut(device)?);
        }
        if let Some(d_bias) = &mut d_bias {
            outputs = outputs.d_bias(d_bias.view_mut(device)?);
        }
        call.run(|stream| {
            let mut workspace = plan.workspace(stream)?;
            plan.backward_into(stream, &inputs, outputs, &mut workspace)
        })?;
        let finish = |array: Option<Array<'py>>| array.map(|array| call.finish(array)).transpose();
        let mut results = vec![Some(call.finish(d_x)?)];
        if is_apart {
            results.push(finish(d_residual)?);
        }
        results.push(finish(d_weight)?);
        if has_bias {
            results.push(finish(d_bias)?);
        }
        PyTuple::new(self.x.py(), results)
    }
}
