"""warpfold for PyTorch: the functions of ``warpfold`` with gradients, under PyTorch's and flash-attn's signatures too.

>>> import torch, warpfold.torch as wft
>>> q, k, v = (torch.randn(1, 8, 16, 64, requires_grad=True) for _ in range(3))
>>> wft.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
>>> q.grad.shape
torch.Size([1, 8, 16, 64])

Everything runs through operators of ``torch.library`` (``torch.ops.warpfold``) with fake kernels, so that ``torch.compile`` takes
it without a graph break. Tensors stay where they are; results are allocated by PyTorch, on its current stream. A backward
pass gives the same bits every time. Second derivatives are not there.
"""

from __future__ import annotations

from typing import Optional, Sequence, Union

import torch
from torch import Tensor, nn

import warpfold

__all__ = [
    "Attention",
    "LayerNorm",
    "RMSNorm",
    "Softmax",
    "attention",
    "attention_varlen",
    "flash_attn_func",
    "flash_attn_varlen_func",
    "layer_norm",
    "rms_norm",
    "scaled_dot_product_attention",
    "softmax",
]

Window = tuple[Optional[int], Optional[int]]
Lengths = Union[Tensor, Sequence[int]]


# What results look like ------------------------------------------------------------------------------------------------------


def _empty(like: Tensor, shape: Sequence[int], dtype: Optional[torch.dtype] = None) -> Tensor:
    """A tensor without gaps, whose dimensions have the order in memory of those of ``like``."""
    # The last dimension stays the innermost, and a repeated one (stride 0) goes around the rows, not into them.
    order = sorted(range(like.dim()), key=lambda axis: -max(like.stride(axis), 1) if axis < like.dim() - 1 else -1)
    strides, stride = [0] * like.dim(), 1
    for axis in reversed(order):
        strides[axis] = stride
        stride = stride * max(shape[axis], 1)
    return torch.empty_strided(shape, strides, dtype=dtype or like.dtype, device=like.device)


def _nothing(like: Tensor) -> Tensor:
    """Stands for a result that is not there: operators return tensors only."""
    return like.new_empty(0)


def _new_random(dropout: float) -> Tensor:
    """The state of dropout's random numbers, seed and offset, from PyTorch's generator on the host."""
    if dropout == 0.0:
        return torch.zeros(2, dtype=torch.int64)
    return torch.stack([torch.randint(2**62, ()), torch.randint(2**32, ())])


def _random(state: Tensor) -> dict[str, int]:
    seed, offset = state.tolist()
    return {"seed": seed, "offset": offset}


def _given(tensor: Optional[Tensor]) -> Optional[Tensor]:
    return None if tensor is None else tensor.detach()


def _rows(tensor: Tensor) -> Tensor:
    """With a last dimension that lies without gaps, as the kernels read it."""
    return tensor if tensor.dim() == 0 or tensor.stride(-1) == 1 else tensor.contiguous()


def _rows_if(tensor: Optional[Tensor]) -> Optional[Tensor]:
    return None if tensor is None else _rows(tensor)


# Attention -------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("warpfold::attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    alibi_slopes: Optional[Tensor],
    sinks: Optional[Tensor],
    key_lengths: Optional[Tensor],
    cu_seqlens_q: Optional[Tensor],
    cu_seqlens_k: Optional[Tensor],
    causal: bool,
    left: Optional[int],
    right: Optional[int],
    scale: Optional[float],
    softcap: Optional[float],
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the output, lse and the state of the random numbers."""
    state = _new_random(dropout)
    options = _options(bias, mask, alibi_slopes, sinks, key_lengths, causal, left, right, scale, softcap, dropout)
    out = _empty(q, (*q.shape[:-1], v.shape[-1]))
    tensors = [q.detach(), k.detach(), v.detach()]
    if cu_seqlens_q is None:
        out, lse = warpfold.attention(*tensors, return_lse=True, out=out, **options, **_random(state))
    else:
        packed = (cu_seqlens_q, cu_seqlens_k)
        out, lse = warpfold.attention_varlen(*tensors, *packed, return_lse=True, out=out, **options, **_random(state))
    return out, lse, state


def _options(bias, mask, alibi_slopes, sinks, key_lengths, causal, left, right, scale, softcap, dropout):
    options = {
        "bias": _given(bias),
        "mask": mask,
        "alibi_slopes": _given(alibi_slopes),
        "sinks": _given(sinks),
        "causal": causal,
        "window": (left, right),
        "scale": scale,
        "softcap": softcap,
        "dropout": dropout,
    }
    return options if key_lengths is None else {**options, "key_lengths": key_lengths}


@_attention.register_fake
def _(q, k, v, bias, mask, alibi_slopes, sinks, key_lengths, cu_seqlens_q, *further):
    rows = q.shape[:-1] if cu_seqlens_q is None else (q.shape[1], q.shape[0])
    return (
        _empty(q, (*q.shape[:-1], v.shape[-1])),
        q.new_empty(rows, dtype=torch.float32),
        torch.empty(2, dtype=torch.int64, device="cpu"),
    )


@torch.library.custom_op("warpfold::attention_backward", mutates_args=())
def _attention_backward(
    d_out: Tensor,
    d_lse: Optional[Tensor],
    out: Tensor,
    lse: Tensor,
    state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    alibi_slopes: Optional[Tensor],
    sinks: Optional[Tensor],
    key_lengths: Optional[Tensor],
    cu_seqlens_q: Optional[Tensor],
    cu_seqlens_k: Optional[Tensor],
    causal: bool,
    left: Optional[int],
    right: Optional[int],
    scale: Optional[float],
    softcap: Optional[float],
    dropout: float,
    with_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k, v, bias and sinks; empty ones where there is no bias that needs one, or no sinks."""
    inputs = bias, mask, alibi_slopes, sinks, key_lengths
    options = _options(*inputs, causal, left, right, scale, softcap, dropout)
    tensors = [tensor.detach() for tensor in (d_out, q, k, v, out, lse)]
    packed = () if cu_seqlens_q is None else (cu_seqlens_q, cu_seqlens_k)
    function = warpfold.attention_varlen_backward if packed else warpfold.attention_backward
    gradients = iter(function(*tensors, *packed, d_lse=_given(d_lse), **options, **_random(state)))
    d_q, d_k, d_v = next(gradients), next(gradients), next(gradients)
    d_bias = None if bias is None else next(gradients)
    d_sinks = None if sinks is None else next(gradients)
    return d_q, d_k, d_v, d_bias if with_bias else _nothing(q), _nothing(lse) if d_sinks is None else d_sinks


@_attention_backward.register_fake
def _(d_out, d_lse, out, lse, state, q, k, v, bias, mask, alibi_slopes, sinks, *further):
    with_bias = further[-1]
    return (
        _empty(q, q.shape),
        _empty(k, k.shape),
        _empty(v, v.shape),
        torch.empty_like(bias, memory_format=torch.contiguous_format) if with_bias else _nothing(q),
        _nothing(lse) if sinks is None else torch.empty_like(sinks, memory_format=torch.contiguous_format),
    )


def _attention_setup(ctx, inputs, output):
    tensors, ctx.options = inputs[:10], inputs[10:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output, *tensors)


def _attention_gradients(ctx, d_out, d_lse, d_state):
    out, lse, state, *tensors = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else _rows(d_out)
    d_lse = None if d_lse is None else d_lse.contiguous()
    with_bias = ctx.needs_input_grad[3]
    d_q, d_k, d_v, d_bias, d_sinks = torch.ops.warpfold.attention_backward(
        d_out, d_lse, out, lse, state, *tensors, *ctx.options, with_bias
    )
    none = (None,) * (len(tensors) + len(ctx.options) - 7)
    return (
        d_q,
        d_k,
        d_v,
        d_bias if with_bias else None,
        None,
        None,
        d_sinks if ctx.needs_input_grad[6] else None,
        *none,
    )


_attention.register_autograd(_attention_gradients, setup_context=_attention_setup)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    window: Window = (None, None),
    scale: Optional[float] = None,
    softcap: Optional[float] = None,
    alibi_slopes: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    mask: Optional[Tensor] = None,
    sinks: Optional[Tensor] = None,
    key_lengths: Optional[Lengths] = None,
    dropout: float = 0.0,
    return_lse: bool = False,
) -> Union[Tensor, tuple[Tensor, Tensor]]:
    """``warpfold.attention`` with gradients of q, k, v, bias and sinks, and through lse.

    Dropout draws its seed from PyTorch's generator on the host (``torch.manual_seed``).

    >>> q = torch.randn(2, 4, 16, 64, requires_grad=True)
    >>> out, lse = attention(q, q[:, :2], q[:, :2], causal=True, return_lse=True)
    >>> (out.sum() + lse.sum()).backward()
    """
    lengths = (_lengths(key_lengths), None, None)
    options = causal, window, scale, softcap, alibi_slopes, bias, mask, sinks, dropout
    return _attend(q, k, v, lengths, options, return_lse)


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Lengths,
    cu_seqlens_k: Lengths,
    *,
    causal: bool = False,
    window: Window = (None, None),
    scale: Optional[float] = None,
    softcap: Optional[float] = None,
    alibi_slopes: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    mask: Optional[Tensor] = None,
    sinks: Optional[Tensor] = None,
    dropout: float = 0.0,
    return_lse: bool = False,
) -> Union[Tensor, tuple[Tensor, Tensor]]:
    """``warpfold.attention_varlen`` with gradients, as ``attention``.

    >>> x = torch.randn(10, 2, 64, requires_grad=True)
    >>> attention_varlen(x, x, x, [0, 3, 10], [0, 3, 10], causal=True).sum().backward()
    """
    lengths = (None, _lengths(cu_seqlens_q), _lengths(cu_seqlens_k))
    options = causal, window, scale, softcap, alibi_slopes, bias, mask, sinks, dropout
    return _attend(q, k, v, lengths, options, return_lse)


def _lengths(given: Optional[Lengths]) -> Optional[Tensor]:
    return given if given is None or isinstance(given, Tensor) else torch.tensor(given, dtype=torch.int32)


def _attend(q, k, v, lengths, options, return_lse):
    causal, (left, right), scale, softcap, alibi_slopes, bias, mask, sinks, dropout = options
    out, lse, _ = torch.ops.warpfold.attention(
        _rows(q),
        _rows(k),
        _rows(v),
        _rows_if(bias),
        mask,
        alibi_slopes,
        sinks,
        *lengths,
        causal,
        left,
        right,
        scale,
        softcap,
        dropout,
    )
    return (out, lse) if return_lse else out


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Optional[Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention``, as PyTorch has it.

    query [..., heads, len_q, head_dim], key and value alike; ``attn_mask`` is bool (True where a key is visible) or of query's
    type, added to the scores, and broadcasts. ``is_causal`` is aligned at the top left: query i sees keys 0 to i. A row that
    sees nothing gives 0.

    Raises ValueError for shapes that do not fit, and for both ``attn_mask`` and ``is_causal``.

    >>> q = torch.randn(2, 4, 16, 64)
    >>> ours = scaled_dot_product_attention(q, q, q, is_causal=True)
    >>> torch.allclose(ours, torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True), atol=1e-5)
    True
    """
    if is_causal and attn_mask is not None:
        raise ValueError("attn_mask and is_causal are both given; fold the causal mask into attn_mask")
    if query.dim() < 2:
        raise ValueError(f"query has shape {list(query.shape)}; [..., len_q, head_dim] is needed")
    if not enable_gqa and query.dim() >= 3 and key.dim() >= 3 and query.shape[-3] != key.shape[-3]:
        heads = f"query has {query.shape[-3]} heads and key {key.shape[-3]}"
        raise ValueError(f"{heads}; pass enable_gqa=True if several query heads shall share one")
    leading = query.shape[:-2]
    q, k, v = _four(query), _four(key), _four(value)
    mask = None if attn_mask is None else _scores(attn_mask, leading, q.shape[-2], k.shape[-2])
    is_bool = mask is not None and mask.dtype == torch.bool
    len_q, len_kv = q.shape[-2], k.shape[-2]
    right = None
    if is_causal:
        # Of alignment at the last key: keys past the last query are never seen, or each query is len_q - len_kv behind.
        k, v = (k[..., :len_q, :], v[..., :len_q, :]) if len_kv > len_q else (k, v)
        right = max(len_q - len_kv, 0)
    out = attention(
        q,
        k,
        v,
        window=(None, right),
        scale=scale,
        mask=mask if is_bool else None,
        bias=None if is_bool else mask,
        dropout=dropout_p,
    )
    return out.reshape(*leading, *out.shape[-2:]) if query.dim() != 4 else out


def _four(tensor: Tensor) -> Tensor:
    """As [batch, heads, len, head_dim]."""
    if tensor.dim() < 4:
        return tensor[(None,) * (4 - tensor.dim())]
    return tensor if tensor.dim() == 4 else tensor.flatten(0, -4)


def _scores(mask: Tensor, leading: torch.Size, len_q: int, len_kv: int) -> Tensor:
    """A mask or bias that broadcasts to [batch, heads, len_q, len_kv]."""
    if mask.dim() > len(leading) + 2:
        shape = [*leading, len_q, len_kv]
        raise ValueError(f"attn_mask has shape {list(mask.shape)}, which does not broadcast to {shape}")
    if mask.dtype != torch.bool and mask.shape[-1] != len_kv:
        mask = mask.expand(*mask.shape[:-1], len_kv)
    if len(leading) > 2:
        mask = mask.expand(*leading, *mask.shape[-2:])
    return _four(mask)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
):
    """flash-attn's function of that name: q [batch, len_q, heads_q, head_dim], k and v [batch, len_kv, heads_kv, head_dim].

    ``causal`` and ``window_size`` (-1 is unbounded) align the last query with the last key. ``deterministic`` is always so.
    Returns the output, in q's shape; with ``return_attn_probs`` (output, lse, None): the matrix of weights is never made.

    >>> q = torch.randn(2, 16, 4, 64)
    >>> flash_attn_func(q, q, q, causal=True).shape
    torch.Size([2, 16, 4, 64])
    """
    options = {"causal": causal, "window": _window(window_size), "scale": softmax_scale, "softcap": softcap or None}
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    out, lse = attention(q, k, v, **options, alibi_slopes=alibi_slopes, dropout=dropout_p, return_lse=True)
    out = out.transpose(1, 2)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Lengths,
    cu_seqlens_k: Lengths,
    max_seqlen_q: Optional[int] = None,
    max_seqlen_k: Optional[int] = None,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Optional[Tensor] = None,
):
    """flash-attn's function of that name: q [total_q, heads_q, head_dim], k and v [total_k, heads_kv, head_dim].

    The longest lengths follow from ``cu_seqlens_q`` and ``cu_seqlens_k``, which a GPU is waited for; ``max_seqlen_q`` and
    ``max_seqlen_k`` are taken and not needed. Paged keys (``block_table``) are not there: NotImplementedError.

    >>> x = torch.randn(10, 4, 64)
    >>> flash_attn_varlen_func(x, x, x, [0, 3, 10], [0, 3, 10], 7, 7, causal=True).shape
    torch.Size([10, 4, 64])
    """
    if block_table is not None:
        raise NotImplementedError("block_table: warpfold has no paged keys; gather them into a tensor first")
    options = {"causal": causal, "window": _window(window_size), "scale": softmax_scale, "softcap": softcap or None}
    packed = (q, k, v, cu_seqlens_q, cu_seqlens_k)
    out, lse = attention_varlen(*packed, **options, alibi_slopes=alibi_slopes, dropout=dropout_p, return_lse=True)
    return (out, lse, None) if return_attn_probs else out


def _window(size: tuple[int, int]) -> Window:
    left, right = size
    return None if left < 0 else left, None if right < 0 else right


# Softmax ---------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("warpfold::softmax", mutates_args=())
def _softmax(
    x: Tensor,
    mask: Optional[Tensor],
    bias: Optional[Tensor],
    scale: float,
    causal: bool,
    left: Optional[int],
    right: Optional[int],
    log: bool,
) -> Tensor:
    options = {"scale": scale, "causal": causal, "window": (left, right), "log": log}
    return warpfold.softmax(x.detach(), mask=mask, bias=_given(bias), out=_empty(x, x.shape), **options)


@_softmax.register_fake
def _(x, *further):
    return _empty(x, x.shape)


@torch.library.custom_op("warpfold::softmax_backward", mutates_args=())
def _softmax_backward(dy: Tensor, y: Tensor, scale: float, log: bool) -> Tensor:
    return warpfold.softmax_backward(dy.detach(), y.detach(), scale=scale, log=log, out=_empty(dy, dy.shape))


@_softmax_backward.register_fake
def _(dy, y, scale, log):
    return _empty(dy, dy.shape)


def _softmax_setup(ctx, inputs, output):
    _, _, bias, ctx.scale, *_, ctx.log = inputs
    ctx.bias = None if bias is None else (bias.shape, bias.dtype)
    ctx.save_for_backward(output)


def _softmax_gradients(ctx, dy):
    (y,) = ctx.saved_tensors
    d_x = torch.ops.warpfold.softmax_backward(_rows(dy), y, ctx.scale, ctx.log)
    d_bias = None
    if ctx.needs_input_grad[2]:
        shape, dtype = ctx.bias
        d_bias = (d_x.float() / ctx.scale).sum_to_size(shape).to(dtype)
    return d_x, None, d_bias, None, None, None, None, None


_softmax.register_autograd(_softmax_gradients, setup_context=_softmax_setup)


def softmax(
    x: Tensor,
    *,
    scale: float = 1.0,
    mask: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    causal: bool = False,
    window: Window = (None, None),
    log: bool = False,
) -> Tensor:
    """``warpfold.softmax`` with gradients of x and bias.

    >>> x = torch.randn(4, 10, requires_grad=True)
    >>> softmax(x, scale=0.5, log=True)[:, 0].sum().backward()
    """
    return torch.ops.warpfold.softmax(_rows(x), mask, _rows_if(bias), scale, causal, *window, log)


# Norms -----------------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("warpfold::norm", mutates_args=())
def _norm(
    x: Tensor,
    weight: Optional[Tensor],
    bias: Optional[Tensor],
    residual: Optional[Tensor],
    eps: float,
    centered: bool,
    zero_centered: bool,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns y, what was normalised, mean, rstd and the state of the random numbers; empty ones for what is not there."""
    state = _new_random(dropout)
    options = {"zero_centered": zero_centered, "residual": _given(residual), "dropout": dropout, "return_stats": True}
    options |= {"out": _empty(x, x.shape), **_random(state)}
    if centered:
        *results, mean, rstd = warpfold.layer_norm(x.detach(), _given(weight), _given(bias), eps, **options)
    else:
        *results, rstd = warpfold.rms_norm(x.detach(), _given(weight), eps, **options)
        mean = _nothing(rstd)
    return results[0], results[1] if len(results) > 1 else _nothing(x), mean, rstd, state


@_norm.register_fake
def _(x, weight, bias, residual, eps, centered, zero_centered, dropout):
    rstd = x.new_empty(x.shape[:-1], dtype=torch.float32)
    has_sum = residual is not None or dropout > 0.0
    return (
        _empty(x, x.shape),
        _empty(x, x.shape, x.dtype if residual is None else residual.dtype) if has_sum else _nothing(x),
        torch.empty_like(rstd) if centered else _nothing(rstd),
        rstd,
        torch.empty(2, dtype=torch.int64, device="cpu"),
    )


@torch.library.custom_op("warpfold::norm_backward", mutates_args=())
def _norm_backward(
    dy: Tensor,
    d_sum: Optional[Tensor],
    normalised: Tensor,
    mean: Tensor,
    rstd: Tensor,
    state: Tensor,
    weight: Optional[Tensor],
    bias: Optional[Tensor],
    eps: float,
    centered: bool,
    zero_centered: bool,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of x, residual, weight and bias; empty ones for what is not there or the same as that of x."""
    options = {"eps": eps, "zero_centered": zero_centered, "d_residual": _given(d_sum), "dropout": dropout}
    options |= _random(state)
    dy, normalised, weight = dy.detach(), normalised.detach(), _given(weight)
    if centered:
        stats = (mean.detach(), rstd.detach())
        d_x, *d_sum, d_weight, d_bias = warpfold.layer_norm_backward(
            dy, normalised, weight, *stats, bias=_given(bias), **options
        )
    else:
        d_x, *d_sum, d_weight = warpfold.rms_norm_backward(dy, normalised, weight, rstd.detach(), **options)
        d_bias = None
    nothing = _nothing(dy)
    return (
        d_x,
        d_sum[0] if d_sum else nothing,
        _nothing(dy) if d_weight is None else d_weight,
        _nothing(dy) if bias is None else d_bias,
    )


@_norm_backward.register_fake
def _(dy, d_sum, normalised, mean, rstd, state, weight, bias, eps, centered, zero_centered, dropout):
    is_apart = dropout > 0.0 or normalised.dtype != dy.dtype
    return (
        _empty(normalised, normalised.shape, dy.dtype),
        _empty(normalised, normalised.shape) if is_apart else _nothing(dy),
        _nothing(dy) if weight is None else torch.empty_like(weight),
        _nothing(dy) if bias is None else torch.empty_like(bias),
    )


def _norm_setup(ctx, inputs, output):
    x, weight, bias, residual, *ctx.options = inputs
    y, normalised, mean, rstd, state = output
    ctx.set_materialize_grads(False)
    ctx.has_residual = residual is not None
    has_sum = ctx.has_residual or ctx.options[-1] > 0.0
    ctx.save_for_backward(normalised if has_sum else x, mean, rstd, state, weight, bias, y if has_sum else None)
    ctx.has_sum = has_sum


def _norm_gradients(ctx, dy, d_sum, d_mean, d_rstd, d_state):
    normalised, mean, rstd, state, weight, bias, y = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(normalised if y is None else y)
    d_sum = _rows(d_sum) if ctx.has_sum and d_sum is not None else None
    d_x, d_residual, d_weight, d_bias = torch.ops.warpfold.norm_backward(
        _rows(dy), d_sum, normalised, mean, rstd, state, weight, bias, *ctx.options
    )
    is_apart = ctx.options[-1] > 0.0 or normalised.dtype != dy.dtype
    return (
        d_x,
        None if weight is None else d_weight,
        None if bias is None else d_bias,
        (d_residual if is_apart else d_x) if ctx.has_residual else None,
        None,
        None,
        None,
        None,
    )


_norm.register_autograd(_norm_gradients, setup_context=_norm_setup)


def layer_norm(
    x: Tensor,
    weight: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    eps: float = 1e-5,
    *,
    zero_centered: bool = False,
    residual: Optional[Tensor] = None,
    dropout: float = 0.0,
) -> Union[Tensor, tuple[Tensor, Tensor]]:
    """``warpfold.layer_norm`` with gradients; with a residual or dropout (y, s), where s is what was normalised.

    >>> x, residual = torch.randn(4, 64, requires_grad=True), torch.randn(4, 64)
    >>> y, s = layer_norm(x, torch.ones(64), torch.zeros(64), residual=residual)
    >>> (y + s).sum().backward()
    """
    return _normed(x, weight, bias, residual, eps, True, zero_centered, dropout)


def rms_norm(
    x: Tensor,
    weight: Optional[Tensor] = None,
    eps: float = 1e-6,
    *,
    zero_centered: bool = False,
    residual: Optional[Tensor] = None,
    dropout: float = 0.0,
) -> Union[Tensor, tuple[Tensor, Tensor]]:
    """``warpfold.rms_norm`` with gradients; with a residual or dropout (y, s), where s is what was normalised.

    >>> x = torch.randn(4, 64, requires_grad=True)
    >>> rms_norm(x, torch.ones(64)).sum().backward()
    """
    return _normed(x, weight, None, residual, eps, False, zero_centered, dropout)


def _normed(x, weight, bias, residual, eps, centered, zero_centered, dropout):
    residual = _rows_if(residual)
    y, s, *_ = torch.ops.warpfold.norm(_rows(x), weight, bias, residual, eps, centered, zero_centered, dropout)
    return y if residual is None and dropout == 0.0 else (y, s)


# Modules ---------------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """``attention`` as a layer is configured; dropout only while training.

    >>> q = torch.randn(2, 4, 16, 64)
    >>> Attention(causal=True, window=(8, 0))(q, q, q).shape
    torch.Size([2, 4, 16, 64])
    """

    def __init__(
        self,
        *,
        causal: bool = False,
        window: Window = (None, None),
        scale: Optional[float] = None,
        softcap: Optional[float] = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.causal, self.window, self.scale, self.softcap, self.dropout = causal, window, scale, softcap, dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **tensors) -> Union[Tensor, tuple[Tensor, Tensor]]:
        """q, k, v, and the tensors that ``attention`` takes: bias, mask, alibi_slopes, sinks, key_lengths."""
        dropout = self.dropout if self.training else 0.0
        options = {"causal": self.causal, "window": self.window, "scale": self.scale, "softcap": self.softcap}
        return attention(q, k, v, **options, dropout=dropout, **tensors)

    def extra_repr(self) -> str:
        return f"causal={self.causal}, window={self.window}, scale={self.scale}, softcap={self.softcap}, dropout={self.dropout}"


class Softmax(nn.Module):
    """``torch.nn.Softmax`` over the last dimension, with a scale.

    >>> Softmax()(torch.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(self, dim: int = -1, *, scale: float = 1.0, log: bool = False):
        super().__init__()
        if dim != -1:
            raise ValueError(f"dim is {dim}; warpfold's softmax is over the last dimension, -1")
        self.scale, self.log = scale, log

    def forward(self, x: Tensor) -> Tensor:
        return softmax(x, scale=self.scale, log=self.log)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, log={self.log}"


class LayerNorm(nn.LayerNorm):
    """``torch.nn.LayerNorm``, with the same parameters and names of them, computed by warpfold.

    >>> LayerNorm(64)(torch.randn(4, 64)).shape
    torch.Size([4, 64])
    """

    def forward(self, x: Tensor) -> Tensor:
        flat, weight, bias = _flat(x, self.normalized_shape, self.weight, self.bias)
        return layer_norm(flat, weight, bias, self.eps).view(x.shape)


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm``, with the same parameters and names of them, computed by warpfold.

    >>> RMSNorm(64)(torch.randn(4, 64)).shape
    torch.Size([4, 64])
    """

    def forward(self, x: Tensor) -> Tensor:
        flat, weight, _ = _flat(x, self.normalized_shape, self.weight, None)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        return rms_norm(flat, weight, eps).view(x.shape)


def _flat(x: Tensor, shape: Sequence[int], *parameters: Optional[Tensor]):
    """With the normalised dimensions as one."""
    if tuple(x.shape[-len(shape) :]) != tuple(shape):
        raise ValueError(f"x has shape {list(x.shape)}; [..., {', '.join(map(str, shape))}] is needed")
    if len(shape) == 1:
        return x, *parameters
    return x.flatten(-len(shape)), *(None if p is None else p.flatten() for p in parameters)
