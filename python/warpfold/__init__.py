"""Fused attention, softmax, layer norm and RMS norm for arrays of NumPy, PyTorch, JAX and whatever exports DLPack.

>>> import numpy as np, warpfold as wf
>>> q = np.random.default_rng(0).standard_normal((1, 8, 16, 64), dtype=np.float32)
>>> wf.attention(q, q, q, causal=True).shape
(1, 8, 16, 64)

Functions run where their arrays are, on the CPU or on a GPU, without copying them; ``device="emulator:sm_80"`` runs the CUDA
kernels without a GPU. ``warpfold.torch`` has the same functions with gradients, and PyTorch's and flash-attn's signatures.
Threads on the CPU: the environment variable RAYON_NUM_THREADS, read at the first call.
"""

from warpfold._native import (
    __version__,
    attention,
    attention_backward,
    attention_varlen,
    attention_varlen_backward,
    devices,
    kernels,
    layer_norm,
    layer_norm_backward,
    merge_states,
    rms_norm,
    rms_norm_backward,
    softmax,
    softmax_backward,
)

__all__ = [
    "__version__",
    "attention",
    "attention_backward",
    "attention_varlen",
    "attention_varlen_backward",
    "devices",
    "kernels",
    "layer_norm",
    "layer_norm_backward",
    "merge_states",
    "rms_norm",
    "rms_norm_backward",
    "softmax",
    "softmax_backward",
]
