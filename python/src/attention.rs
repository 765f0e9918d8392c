//! Attention.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use warpfold::{
    AttentionOutputs, AttentionState, AttentionStateRef, BackwardInputs, BackwardSpec, DType, Device, GradientOutputs,
    Layout, Qkv, SeqLens,
};

use crate::array::Array;
use crate::call::Call;
use crate::error::{exception, guarded};
use crate::options::{Options, cumulative_lengths};

/// Fused attention: softmax(scale * q k^T + bias, where the mask shows) v.
///
/// Shapes
///     q [batch, heads_q, len_q, head_dim], k [batch, heads_kv, len_kv, head_dim], v [batch, heads_kv, len_kv,
///     head_dim_v]; heads_q is a multiple of heads_kv (GQA, MQA). Any strides but for the last dimension, so that a
///     transposed view costs no copy. float32, float16 or bfloat16; sums are float32.
///
/// Options
///     causal: query i sees keys j <= i + len_kv - len_q: the last query sits at the last key.
///     window: (left, right) keys around a query's position that it sees, inclusive; None is unbounded.
///     scale: of the scores; 1 / sqrt(head_dim) if None.
///     softcap: bounds scores by cap * tanh(score / cap).
///     alibi_slopes: float32 [heads_q] or [batch, heads_q]; subtracts slope * |position - j|.
///     bias: added to the scores, of q's type; broadcasts to [batch, heads_q, len_q, len_kv] but for len_kv.
///     mask: bool, True where a key is visible; broadcasts to [batch, heads_q, len_q, len_kv].
///     sinks: float32 [heads_q], a logit a head that joins each row's sum and carries no value.
///     key_lengths: integers [batch]; later keys are hidden, whatever they hold. (A GPU's are waited for.)
///     dropout, seed, offset: the probability, and the state of the random numbers (64 and 32 bits).
///     return_lse: also return the natural log of each row's sum of exponentials, float32 [batch, heads_q, len_q].
///     out: where to write, apart from the inputs.
///     device: None runs where the arrays are; "emulator:sm_80" or "emulator:sm_90a" runs the CUDA kernels of these on the
///     CPU, for arrays in host memory.
///
/// Returns the output, of q's kind and type, [batch, heads_q, len_q, head_dim_v], in q's order of dimensions in memory; or
/// (output, lse). A row that sees no key gives 0 and lse -inf.
///
/// Raises ValueError for shapes, options and devices that do not fit, TypeError for types (and tensors that require grad:
/// see warpfold.torch), RuntimeError for what a device reports; the values are in the message.
///
/// >>> import numpy as np, warpfold as wf
/// >>> q = np.random.default_rng(0).standard_normal((1, 8, 16, 64), dtype=np.float32)
/// >>> k = v = q[:, :2]                        # 2 key heads, each of 4 query heads
/// >>> wf.attention(q, k, v, causal=True).shape
/// (1, 8, 16, 64)
#[pyfunction]
#[pyo3(
    signature = (q, k, v, *, return_lse = false, out = None, device = None, **options),
    text_signature = "(q, k, v, *, causal=False, window=(None, None), scale=None, softcap=None, alibi_slopes=None, \
                      bias=None, mask=None, sinks=None, key_lengths=None, dropout=0.0, seed=0, offset=0, \
                      return_lse=False, out=None, device=None)"
)]
pub fn attention<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    return_lse: bool,
    out: Option<&Bound<'py, PyAny>>,
    device: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    guarded(|| {
        let options = Options::new("attention", options)?;
        let call = Call::new("q", q, device)?;
        let lengths = Lengths::padded(&call.device, &options)?;
        forward(&call, [q, k, v], &lengths, &options, return_lse, out)
    })
}

/// Attention of packed sequences of different lengths, each of which attends to itself alone.
///
/// Shapes
///     q [total_q, heads_q, head_dim], k [total_k, heads_kv, head_dim], v [total_k, heads_kv, head_dim_v];
///     cu_seqlens_q and cu_seqlens_k integers [batch + 1], where sequences start and the last one ends: [0, 3, 10] are
///     sequences of 3 and 7 tokens. (A GPU's are waited for.)
///
/// Options, results and errors are those of `attention`, without key_lengths; masks align per sequence, bias and mask
/// broadcast to [batch, heads_q, longest q, longest k], and lse is [heads_q, total_q].
///
/// >>> import numpy as np, warpfold as wf
/// >>> x = np.random.default_rng(0).standard_normal((10, 2, 64), dtype=np.float32)
/// >>> wf.attention_varlen(x, x, x, [0, 3, 10], [0, 3, 10], causal=True).shape
/// (10, 2, 64)
#[pyfunction]
#[pyo3(
    signature = (q, k, v, cu_seqlens_q, cu_seqlens_k, *, return_lse = false, out = None, device = None, **options),
    text_signature = "(q, k, v, cu_seqlens_q, cu_seqlens_k, *, causal=False, window=(None, None), scale=None, \
                      softcap=None, alibi_slopes=None, bias=None, mask=None, sinks=None, dropout=0.0, seed=0, \
                      offset=0, return_lse=False, out=None, device=None)"
)]
#[expect(clippy::too_many_arguments, reason = "they are keywords of Python's")]
pub fn attention_varlen<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    cu_seqlens_q: &Bound<'py, PyAny>,
    cu_seqlens_k: &Bound<'py, PyAny>,
    return_lse: bool,
    out: Option<&Bound<'py, PyAny>>,
    device: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    guarded(|| {
        let options = Options::new("attention_varlen", options)?;
        let call = Call::new("q", q, device)?;
        let lengths = Lengths::packed(&call.device, cu_seqlens_q, cu_seqlens_k, &options)?;
        forward(&call, [q, k, v], &lengths, &options, return_lse, out)
    })
}

/// The gradients of `attention`, from its results and the gradient of its output.
///
/// Shapes
///     d_out and out [batch, heads_q, len_q, head_dim_v]; lse (of return_lse=True) and d_lse, its gradient if it has one,
///     float32 [batch, heads_q, len_q]. The options are those of the forward call, dropout's seed and offset too.
///
/// Returns (dq, dk, dv), and after them the gradient of a bias and that of sinks where there are any: each of the shape and
/// type of what it belongs to. The same call gives the same bits every time.
///
/// Raises as `attention` does.
///
/// >>> import numpy as np, warpfold as wf
/// >>> q = np.random.default_rng(0).standard_normal((1, 2, 16, 64), dtype=np.float32)
/// >>> out, lse = wf.attention(q, q, q, causal=True, return_lse=True)
/// >>> dq, dk, dv = wf.attention_backward(np.ones_like(out), q, q, q, out, lse, causal=True)
/// >>> dq.shape
/// (1, 2, 16, 64)
#[pyfunction]
#[pyo3(
    signature = (d_out, q, k, v, out, lse, *, d_lse = None, device = None, **options),
    text_signature = "(d_out, q, k, v, out, lse, *, d_lse=None, causal=False, window=(None, None), scale=None, \
                      softcap=None, alibi_slopes=None, bias=None, mask=None, sinks=None, key_lengths=None, dropout=0.0, \
                      seed=0, offset=0, device=None)"
)]
#[expect(clippy::too_many_arguments, reason = "they are keywords of Python's")]
pub fn attention_backward<'py>(
    d_out: &Bound<'py, PyAny>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    out: &Bound<'py, PyAny>,
    lse: &Bound<'py, PyAny>,
    d_lse: Option<&Bound<'py, PyAny>>,
    device: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyTuple>> {
    guarded(|| {
        let options = Options::new("attention_backward", options)?;
        let call = Call::new("q", q, device)?;
        let lengths = Lengths::padded(&call.device, &options)?;
        backward(&call, [q, k, v], &lengths, &options, [d_out, out, lse], d_lse)
    })
}

/// The gradients of `attention_varlen`, as `attention_backward` gives those of `attention`.
///
/// Shapes
///     As those of `attention_varlen`; lse and d_lse float32 [heads_q, total_q].
///
/// >>> import numpy as np, warpfold as wf
/// >>> x = np.random.default_rng(0).standard_normal((10, 2, 64), dtype=np.float32)
/// >>> starts = [0, 3, 10]
/// >>> out, lse = wf.attention_varlen(x, x, x, starts, starts, return_lse=True)
/// >>> dq, dk, dv = wf.attention_varlen_backward(np.ones_like(out), x, x, x, out, lse, starts, starts)
/// >>> dk.shape
/// (10, 2, 64)
#[pyfunction]
#[pyo3(
    signature = (d_out, q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, *, d_lse = None, device = None, **options),
    text_signature = "(d_out, q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, *, d_lse=None, causal=False, \
                      window=(None, None), scale=None, softcap=None, alibi_slopes=None, bias=None, mask=None, \
                      sinks=None, dropout=0.0, seed=0, offset=0, device=None)"
)]
#[expect(clippy::too_many_arguments, reason = "they are keywords of Python's")]
pub fn attention_varlen_backward<'py>(
    d_out: &Bound<'py, PyAny>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    out: &Bound<'py, PyAny>,
    lse: &Bound<'py, PyAny>,
    cu_seqlens_q: &Bound<'py, PyAny>,
    cu_seqlens_k: &Bound<'py, PyAny>,
    d_lse: Option<&Bound<'py, PyAny>>,
    device: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyTuple>> {
    guarded(|| {
        let options = Options::new("attention_varlen_backward", options)?;
        let call = Call::new("q", q, device)?;
        let lengths = Lengths::packed(&call.device, cu_seqlens_q, cu_seqlens_k, &options)?;
        backward(&call, [q, k, v], &lengths, &options, [d_out, out, lse], d_lse)
    })
}

/// Merges attention over disjoint sets of keys into attention over all of them.
///
/// states is a sequence of (output, lse), as `attention` with return_lse=True gives them, over the same queries:
/// outputs [batch, heads, len, head_dim] or [total, heads, head_dim], lse float32 [batch, heads, len] or [heads, total].
/// Outputs of 16 bits are widened first and the result is rounded once; compute partial results in float32 where the last
/// digit counts. Sinks must not be in more than one of them.
///
/// Returns (output, lse): lse = ln sum exp(lse_n), output = sum exp(lse_n - lse) output_n.
///
/// Raises ValueError for no states, or for shapes and strides that differ, and otherwise as `attention` does.
///
/// >>> import numpy as np, warpfold as wf
/// >>> q = np.random.default_rng(0).standard_normal((1, 2, 16, 64), dtype=np.float32)
/// >>> halves = [wf.attention(q, q[:, :, s], q[:, :, s], return_lse=True) for s in (slice(0, 9), slice(9, 16))]
/// >>> out, lse = wf.merge_states(halves)
/// >>> bool(np.allclose(out, wf.attention(q, q, q), atol=1e-6))
/// True
#[pyfunction]
#[pyo3(signature = (states, *, device = None))]
pub fn merge_states<'py>(
    states: Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>,
    device: Option<&Bound<'py, PyAny>>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    guarded(|| {
        let Some((first, _)) = states.first() else {
            return Err(PyValueError::new_err("states is empty; at least one (output, lse) is needed"));
        };
        let call = Call::new("the first output", first, device)?;
        let dtype = call.read("the first output", first)?.dtype();
        let states = states
            .iter()
            .map(|(output, lse)| Ok((call.read("an output", &widened(output)?)?, call.read("an lse", lse)?)));
        let states = states.collect::<PyResult<Vec<_>>>()?;

        // As many as one call merges, and then the result with the next ones.
        let (mut merged, mut rest): (Option<[Array<'py>; 2]>, &[(Array<'py>, Array<'py>)]) = (None, &states);
        loop {
            let count = rest.len().min(if merged.is_some() { 15 } else { 16 });
            let (now, later) = rest.split_at(count);
            let dtype = if later.is_empty() { dtype } else { DType::F32 };
            let next = merge(&call, merged.as_ref(), now, dtype)?;
            if later.is_empty() {
                let [output, lse] = next;
                return Ok((call.finish(output)?, call.finish(lse)?));
            }
            (merged, rest) = (Some(next), later);
        }
    })
}

fn merge<'py>(
    call: &Call<'py>,
    before: Option<&[Array<'py>; 2]>,
    states: &[(Array<'py>, Array<'py>)],
    dtype: DType,
) -> PyResult<[Array<'py>; 2]> {
    let pairs = before.map(|[output, lse]| (output, lse)).into_iter();
    let pairs = pairs.chain(states.iter().map(|(output, lse)| (output, lse)));
    let device = &call.device;
    let views = pairs.map(|(output, lse)| {
        AttentionStateRef::from_natural_log(output.view(device)?, lse.view(device)?).map_err(exception)
    });
    let views = views.collect::<PyResult<Vec<_>>>()?;
    let first = before.map_or_else(|| &states[0].0, |before| &before[0]);
    let first_lse = before.map_or_else(|| &states[0].1, |before| &before[1]);
    let mut output = call.create(dtype, &first.layout().compact())?;
    let mut lse = call.create(DType::F32, first_lse.layout())?;
    let outputs = AttentionOutputs::new(output.view_mut(device)?).lse(lse.view_mut(device)?);
    call.run(|stream| AttentionState::merge_into(stream, &views, None, outputs))?;
    Ok([output, lse])
}

/// An output of 16 bits in float32, by its own library.
fn widened<'py>(output: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = output.py();
    let dtype = output.getattr(pyo3::intern!(py, "dtype"))?.to_string();
    if !matches!(dtype.trim_start_matches("torch."), "float16" | "bfloat16") {
        return Ok(output.clone());
    }
    match output.hasattr(pyo3::intern!(py, "astype"))? {
        true => output.call_method1(pyo3::intern!(py, "astype"), ("float32",)),
        false => output.call_method0(pyo3::intern!(py, "float")),
    }
}

/// How long sequences are.
struct Lengths {
    /// Of packed ones.
    queries: Option<SeqLens>,
    /// Of packed ones, or of those that are padded.
    keys: Option<SeqLens>,
}

impl Lengths {
    fn padded(device: &Device, options: &Options<'_>) -> PyResult<Lengths> {
        Ok(Lengths { queries: None, keys: options.key_lengths(device)? })
    }

    fn packed(
        device: &Device,
        queries: &Bound<'_, PyAny>,
        keys: &Bound<'_, PyAny>,
        options: &Options<'_>,
    ) -> PyResult<Lengths> {
        options.check_packed()?;
        let queries = cumulative_lengths(device, "cu_seqlens_q", queries)?;
        Ok(Lengths { queries: Some(queries), keys: Some(cumulative_lengths(device, "cu_seqlens_k", keys)?) })
    }
}

/// What a call reads.
struct Inputs<'py> {
    q: Array<'py>,
    k: Array<'py>,
    v: Array<'py>,
    bias: Option<Array<'py>>,
    mask: Option<Array<'py>>,
    alibi_slopes: Option<Array<'py>>,
    sinks: Option<Array<'py>>,
}

impl<'py> Inputs<'py> {
    fn new(call: &Call<'py>, [q, k, v]: [&Bound<'py, PyAny>; 3], options: &Options<'py>) -> PyResult<Inputs<'py>> {
        let scores = |array: Option<Array<'py>>| array.map(|array| array.with_rank(4)).transpose();
        Ok(Inputs {
            q: call.read("q", q)?,
            k: call.read("k", k)?,
            v: call.read("v", v)?,
            bias: scores(call.read_if("bias", &options.bias)?)?,
            mask: scores(call.read_if("mask", &options.mask)?)?,
            alibi_slopes: call.read_if("alibi_slopes", &options.alibi_slopes)?,
            sinks: call.read_if("sinks", &options.sinks)?,
        })
    }

    fn all(&self) -> Vec<&Array<'py>> {
        let options = [&self.bias, &self.mask, &self.alibi_slopes, &self.sinks];
        [&self.q, &self.k, &self.v].into_iter().chain(options.into_iter().flatten()).collect()
    }

    fn qkv<'a>(&'a self, device: &'a Device, lengths: &'a Lengths, options: &Options<'_>) -> PyResult<Qkv<'a>> {
        let (q, k, v) = (self.q.view(device)?, self.k.view(device)?, self.v.view(device)?);
        let mut inputs = match (&lengths.queries, &lengths.keys) {
            (Some(queries), Some(keys)) => Qkv::packed(q, k, v, queries, keys),
            (_, Some(keys)) => Qkv::new(q, k, v).key_lengths(keys),
            (_, None) => Qkv::new(q, k, v),
        };
        if let Some(bias) = &self.bias {
            inputs = inputs.bias(bias.view(device)?);
        }
        if let Some(mask) = &self.mask {
            inputs = inputs.mask(mask.view(device)?);
        }
        if let Some(slopes) = &self.alibi_slopes {
            inputs = inputs.alibi_slopes(slopes.view(device)?);
        }
        if let Some(sinks) = &self.sinks {
            inputs = inputs.sinks(sinks.view(device)?);
        }
        Ok(inputs.dropout_state(options.seed, options.offset))
    }
}

fn forward<'py>(
    call: &Call<'py>,
    qkv: [&Bound<'py, PyAny>; 3],
    lengths: &Lengths,
    options: &Options<'py>,
    return_lse: bool,
    out: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (attention, device) = (options.attention()?, &call.device);
    let arrays = Inputs::new(call, qkv, options)?;
    let inputs = arrays.qkv(device, lengths, options)?;
    let planned = attention.plan(&inputs.spec(), &device.target()).map_err(exception)?;
    let mut output = call.result(out, (planned.output_dtype(), &planned.output_layout()), &arrays.all())?;
    let lse = Layout::contiguous(planned.lse_shape().as_slice()).map_err(exception)?;
    let mut lse = return_lse.then(|| call.create(DType::F32, &lse)).transpose()?;

    let spec = inputs.spec().output(output.spec(device)?);
    let plan = attention.plan(&spec, &device.target()).map_err(exception)?;
    let mut outputs = AttentionOutputs::new(output.view_mut(device)?);
    if let Some(lse) = &mut lse {
        outputs = outputs.lse(lse.view_mut(device)?);
    }
    call.run(|stream| {
        let mut workspace = plan.workspace(stream)?;
        plan.forward_into(stream, &inputs, outputs, &mut workspace)
    })?;
    let output = call.finish(output)?;
    match lse {
        None => Ok(output),
        Some(lse) => Ok((output, call.finish(lse)?).into_pyobject(qkv[0].py())?.into_any()),
    }
}

fn backward<'py>(
    call: &Call<'py>,
    qkv: [&Bound<'py, PyAny>; 3],
    lengths: &Lengths,
    options: &Options<'py>,
    [d_out, out, lse]: [&Bound<'py, PyAny>; 3],
    d_lse: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let (attention, device) = (options.attention()?, &call.device);
    let arrays = Inputs::new(call, qkv, options)?;
    let [d_out, out, lse] = [call.read("d_out", d_out)?, call.read("out", out)?, call.read("lse", lse)?];
    let d_lse = d_lse.map(|d_lse| call.read("d_lse", d_lse)).transpose()?;
    let inputs = arrays.qkv(device, lengths, options)?;
    let spec = BackwardSpec::new(inputs.spec().output(out.spec(device)?)).d_output(d_out.spec(device)?);
    // Everything is checked before memory is asked for.
    attention.plan_backward(&spec, &device.target()).map_err(exception)?;

    let like = |array: &Array<'py>| call.create(array.dtype(), &array.layout().compact());
    let (mut d_q, mut d_k, mut d_v) = (like(&arrays.q)?, like(&arrays.k)?, like(&arrays.v)?);
    let gradients = [d_q.spec(device)?, d_k.spec(device)?, d_v.spec(device)?];
    let mut spec = spec.gradients(gradients[0], gradients[1], gradients[2]);
    // The gradient of a bias has the dimensions that the caller gave it.
    let mut d_bias = match (&options.bias, &arrays.bias) {
        (Some(given), Some(bias)) => {
            let rank = call.read("bias", given)?.layout().rank();
            let shape = bias.layout().shape();
            let layout = Layout::contiguous(&shape[shape.len() - rank..]).map_err(exception)?;
            Some(call.create(bias.dtype(), &layout)?.with_rank(4)?)
        }
        _ => None,
    };
    if let Some(d_bias) = &d_bias {
        spec = spec.d_bias(d_bias.spec(device)?);
    }
    let mut d_sinks = arrays.sinks.as_ref().map(&like).transpose()?;

    let plan = attention.plan_backward(&spec, &device.target()).map_err(exception)?;
    let mut saved = BackwardInputs::new(out.view(device)?, lse.view(device)?, d_out.view(device)?);
    if let Some(d_lse) = &d_lse {
        saved = saved.d_lse(d_lse.view(device)?);
    }
    let mut outputs = GradientOutputs::new(d_q.view_mut(device)?, d_k.view_mut(device)?, d_v.view_mut(device)?);
    if let Some(d_bias) = &mut d_bias {
        outputs = outputs.d_bias(d_bias.view_mut(device)?);
    }
    if let Some(d_sinks) = &mut d_sinks {
        outputs = outputs.d_sinks(d_sinks.view_mut(device)?);
    }
    call.run(|stream| {
        let mut workspace = plan.workspace(stream)?;
        plan.backward_into(stream, &inputs, &saved, outputs, &mut workspace)
    })?;
    let results = [Some(d_q), Some(d_k), Some(d_v), d_bias, d_sinks].into_iter().flatten();
    let results = results.map(|result| call.finish(result)).collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(qkv[0].py(), results)
}
