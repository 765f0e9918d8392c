"""What the functions compute, written down in NumPy and float64."""

import numpy as np


def visible(len_q, len_k, causal=False, window=(None, None)):
    """The last query sits at the last key."""
    distance = np.arange(len_k)[None, :] - (np.arange(len_q)[:, None] + len_k - len_q)
    seen = np.ones((len_q, len_k), bool)
    if causal:
        seen &= distance <= 0
    if window[0] is not None:
        seen &= distance >= -window[0]
    if window[1] is not None:
        seen &= distance <= window[1]
    return seen


def attention(
    q,
    k,
    v,
    *,
    causal=False,
    window=(None, None),
    scale=None,
    softcap=None,
    alibi_slopes=None,
    bias=None,
    mask=None,
    sinks=None,
    key_lengths=None,
):
    """Output and lse."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    (batch, heads, len_q, head_dim), len_k = q.shape, k.shape[2]
    group = heads // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    s = q @ k.swapaxes(-1, -2) * (head_dim**-0.5 if scale is None else scale)
    if softcap is not None:
        s = softcap * np.tanh(s / softcap)
    if bias is not None:
        s = s + np.asarray(bias, np.float64)
    if alibi_slopes is not None:
        position = np.arange(len_q)[:, None] + len_k - len_q
        slopes = np.asarray(alibi_slopes, np.float64).reshape(-1, heads, 1, 1)
        s = s - slopes * np.abs(position - np.arange(len_k)[None, :])
    seen = np.broadcast_to(visible(len_q, len_k, causal, window), s.shape).copy()
    if mask is not None:
        seen &= np.asarray(mask, bool)
    if key_lengths is not None:
        seen &= np.arange(len_k)[None, None, None, :] < np.asarray(key_lengths).reshape(-1, 1, 1, 1)
    s = np.where(seen, s, -np.inf)
    sink = np.full((heads, 1, 1), -np.inf) if sinks is None else np.asarray(sinks, np.float64).reshape(heads, 1, 1)
    top = np.maximum(s.max(-1, keepdims=True, initial=-np.inf), sink)
    top = np.where(np.isinf(top), 0.0, top)
    weights = np.exp(s - top)
    total = weights.sum(-1, keepdims=True) + np.exp(sink - top)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + top)[..., 0]
    return weights / np.where(total == 0, 1, total) @ v, lse


def packed(q, k, v, starts_q, starts_k, **options):
    """Output and lse of packed sequences."""
    parts = [
        attention(
            q[a:b].swapaxes(0, 1)[None], k[c:d].swapaxes(0, 1)[None], v[c:d].swapaxes(0, 1)[None], **options
        )
        for a, b, c, d in zip(starts_q, starts_q[1:], starts_k, starts_k[1:])
    ]
    out = np.concatenate([out[0].swapaxes(0, 1) for out, _ in parts])
    return out, np.concatenate([lse[0] for _, lse in parts], axis=-1)


def softmax(x, *, scale=1.0, mask=None, bias=None, causal=False, window=(None, None), log=False):
    s = np.asarray(x, np.float64) * scale
    if bias is not None:
        s = s + bias
    seen = np.ones(s.shape, bool)
    if causal or window != (None, None):
        seen &= visible(s.shape[-2], s.shape[-1], causal, window)
    if mask is not None:
        seen &= np.asarray(mask, bool)
    s = np.where(seen, s, -np.inf)
    top = s.max(-1, keepdims=True)
    weights = np.exp(s - np.where(np.isinf(top), 0, top))
    total = weights.sum(-1, keepdims=True)
    y = weights / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):
        return np.log(y) if log else y


def norm(x, weight=None, bias=None, eps=1e-5, *, centered=True, zero_centered=False, residual=None):
    """y, mean and rstd."""
    s = np.asarray(x, np.float64) + (0 if residual is None else np.asarray(residual, np.float64))
    mean = s.mean(-1) if centered else np.zeros(s.shape[:-1])
    rstd = 1 / np.sqrt(((s - mean[..., None]) ** 2).mean(-1) + eps)
    y = (s - mean[..., None]) * rstd[..., None]
    if weight is not None:
        y = y * (np.asarray(weight, np.float64) + zero_centered)
    return y if bias is None else y + bias, mean, rstd


def gradient(function, x, d_out, step=1e-5):
    """By central differences: of sum(function(x) * d_out) with respect to x, in float64."""
    x = np.array(x, np.float64)
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        values = []
        for sign in (1, -1):
            x[index] = kept + sign * step
            values.append((function(x) * d_out).sum())
        x[index] = kept
        result[index] = (values[0] - values[1]) / (2 * step)
    return result
