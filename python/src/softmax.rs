//! Softmax.

use pyo3::prelude::*;
use warpfold::{Softmax, SoftmaxBackwardSpec, SoftmaxInputs, SoftmaxSpec};

use crate::call::Call;
use crate::error::{exception, guarded};
use crate::options::positional_mask;

/// Softmax over the last axis, or its logarithm.
///
/// Shapes
///     x [..., columns], any strides but for the last dimension; float32, float16 or bfloat16; sums are float32.
///
/// Options
///     scale: multiplies x first; 1 / temperature. Above 0.
///     mask: bool, True where an element is visible; broadcasts to x. A row that sees nothing gives 0 (log: -inf).
///     bias: added after the scale, of x's type or float32; broadcasts to x.
///     causal, window: the last two dimensions are queries and keys, of which those are visible that attention would show.
///     log: the logarithm of the softmax.
///     out: where to write; x itself replaces it.
///     device: None runs where x is; "emulator:sm_80" runs the CUDA kernels on the CPU, for arrays in host memory.
///
/// Returns an array of x's kind, shape and type. Raises ValueError, TypeError and RuntimeError as `attention` does.
///
/// >>> import numpy as np, warpfold as wf
/// >>> wf.softmax(np.array([[0.0, np.log(3.0)]], dtype=np.float32))
/// array([[0.25, 0.75]], dtype=float32)
#[pyfunction]
#[pyo3(
    signature = (x, *, scale = 1.0, mask = None, bias = None, causal = false, window = [None, None], log = false, out = None,
                 device = None),
    text_signature = "(x, *, scale=1.0, mask=None, bias=None, causal=False, window=(None, None), log=False, out=None, \
                      device=None)"
)]
#[expect(clippy::too_many_arguments, reason = "they are keywords of Python's")]
pub fn softmax<'py>(
    x: &Bound<'py, PyAny>,
    scale: f32,
    mask: Option<Bound<'py, PyAny>>,
    bias: Option<Bound<'py, PyAny>>,
    causal: bool,
    window: [Option<i64>; 2],
    log: bool,
    out: Option<&Bound<'py, PyAny>>,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    guarded(|| {
        let softmax = Softmax::new().scale(scale).log(log).mask(positional_mask(causal, window)?);
        let call = Call::new("x", x, device)?;
        let device = &call.device;
        let x = call.read("x", x)?;
        let (mask, bias) = (call.read_if("mask", &mask)?, call.read_if("bias", &bias)?);
        let options: Vec<_> = mask.iter().chain(&bias).collect();
        let mut y = call.result(out, (x.dtype(), &x.layout().compact()), &options)?;
        let in_place = y.is_same(&x);
        if !in_place {
            y.check_apart(&x)?;
        }

        let mut inputs = if in_place { SoftmaxInputs::in_place() } else { SoftmaxInputs::new(x.view(device)?) };
        let mut spec = SoftmaxSpec::new(x.spec(device)?);
        spec = if in_place { spec.in_place() } else { spec.output(y.spec(device)?) };
        if let Some(mask) = &mask {
            inputs = inputs.mask(mask.view(device)?);
            spec = spec.mask(mask.spec(device)?);
        }
        if let Some(bias) = &bias {
            inputs = inputs.bias(bias.view(device)?);
            spec = spec.bias(bias.spec(device)?);
        }
        let plan = softmax.plan(&spec, &device.target()).map_err(exception)?;
        let output = y.view_mut(device)?;
        call.run(|stream| {
            let mut workspace = plan.workspace(stream)?;
            plan.forward_into(stream, inputs, output, &mut workspace)
        })?;
        call.finish(y)
    })
}

/// The gradient of `softmax` with respect to x, from its result y and the gradient dy of that.
///
/// Shapes
///     dy, y and the result [..., columns], of one type. scale and log are those of the forward call; masks and biases show
///     in y.
///
/// Options
///     out: where to write; dy itself replaces it.
///     device: as of `softmax`.
///
/// >>> import numpy as np, warpfold as wf
/// >>> y, dy = np.array([[0.25, 0.75]], np.float32), np.array([[4.0, 0.0]], np.float32)
/// >>> wf.softmax_backward(dy, y)
/// array([[ 0.75, -0.75]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (dy, y, *, scale = 1.0, log = false, out = None, device = None))]
pub fn softmax_backward<'py>(
    dy: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    scale: f32,
    log: bool,
    out: Option<&Bound<'py, PyAny>>,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    guarded(|| {
        let softmax = Softmax::new().scale(scale).log(log);
        let call = Call::new("y", y, device)?;
        let device = &call.device;
        let (dy, y) = (call.read("dy", dy)?, call.read("y", y)?);
        let mut dx = call.result(out, (y.dtype(), &dy.layout().compact()), &[&y])?;
        let in_place = dx.is_same(&dy);
        if !in_place {
            dx.check_apart(&dy)?;
        }
        let spec = SoftmaxBackwardSpec::new(y.spec(device)?, dy.spec(device)?);
        let spec = if in_place { spec.in_place() } else { spec.d_x(dx.spec(device)?) };
        let plan = softmax.plan_backward(&spec, &device.target()).map_err(exception)?;
        let y = y.view(device)?;
        // Memory that is replaced is seen once only.
        let dy = if in_place { None } else { Some(dy.view(device)?) };
        let output = dx.view_mut(device)?;
        call.run(|stream| {
            let mut workspace = plan.workspace(stream)?;
            match dy {
                None => plan.backward_in_place(stream, y, output, &mut workspace),
                Some(dy) => plan.backward_into(stream, [y, dy], output, &mut workspace),
            }
        })?;
        call.finish(dx)
    })
}
