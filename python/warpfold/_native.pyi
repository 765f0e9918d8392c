"""Types of the native module: its documentation is in the docstrings."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, SupportsIndex, TypedDict, TypeVar, overload

class SupportsDLPack(Protocol):
    """An array that exports DLPack: of NumPy, PyTorch, JAX, ..."""

    def __dlpack__(self, *, stream: Any = ...) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, int]: ...

_Array = TypeVar("_Array", bound=SupportsDLPack)
_Lengths = SupportsDLPack | Sequence[SupportsIndex]
_Window = tuple[int | None, int | None]
_Device = Any  # a name, or whatever has one as its str(), such as torch.device

class KernelInfo(TypedDict):
    name: str
    compute_capabilities: list[str]
    registers: int

__version__: str

@overload
def attention(
    q: _Array,
    k: SupportsDLPack,
    v: SupportsDLPack,
    *,
    causal: bool = False,
    window: _Window = (None, None),
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: SupportsDLPack | None = None,
    bias: SupportsDLPack | None = None,
    mask: SupportsDLPack | None = None,
    sinks: SupportsDLPack | None = None,
    key_lengths: _Lengths | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    return_lse: Literal[False] = False,
    out: _Array | None = None,
    device: _Device = None,
) -> _Array: ...
@overload
def attention(
    q: _Array,
    k: SupportsDLPack,
    v: SupportsDLPack,
    *,
    causal: bool = False,
    window: _Window = (None, None),
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: SupportsDLPack | None = None,
    bias: SupportsDLPack | None = None,
    mask: SupportsDLPack | None = None,
    sinks: SupportsDLPack | None = None,
    key_lengths: _Lengths | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    return_lse: Literal[True],
    out: _Array | None = None,
    device: _Device = None,
) -> tuple[_Array, _Array]: ...
@overload
def attention_varlen(
    q: _Array,
    k: SupportsDLPack,
    v: SupportsDLPack,
    cu_seqlens_q: _Lengths,
    cu_seqlens_k: _Lengths,
    *,
    causal: bool = False,
    window: _Window = (None, None),
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: SupportsDLPack | None = None,
    bias: SupportsDLPack | None = None,
    mask: SupportsDLPack | None = None,
    sinks: SupportsDLPack | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    return_lse: Literal[False] = False,
    out: _Array | None = None,
    device: _Device = None,
) -> _Array: ...
@overload
def attention_varlen(
    q: _Array,
    k: SupportsDLPack,
    v: SupportsDLPack,
    cu_seqlens_q: _Lengths,
    cu_seqlens_k: _Lengths,
    *,
    causal: bool = False,
    window: _Window = (None, None),
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: SupportsDLPack | None = None,
    bias: SupportsDLPack | None = None,
    mask: SupportsDLPack | None = None,
    sinks: SupportsDLPack | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    return_lse: Literal[True],
    out: _Array | None = None,
    device: _Device = None,
) -> tuple[_Array, _Array]: ...
def attention_backward(
    d_out: SupportsDLPack,
    q: _Array,
    k: SupportsDLPack,
    v: SupportsDLPack,
    out: SupportsDLPack,
    lse: SupportsDLPack,
    *,
    d_lse: SupportsDLPack | None = None,
    causal: bool = False,
    window: _Window = (None, None),
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: SupportsDLPack | None = None,
    bias: SupportsDLPack | None = None,
    mask: SupportsDLPack | None = None,
    sinks: SupportsDLPack | None = None,
    key_lengths: _Lengths | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    device: _Device = None,
) -> tuple[_Array, ...]: ...
def attention_varlen_backward(
    d_out: SupportsDLPack,
    q: _Array,
    k: SupportsDLPack,
    v: SupportsDLPack,
    out: SupportsDLPack,
    lse: SupportsDLPack,
    cu_seqlens_q: _Lengths,
    cu_seqlens_k: _Lengths,
    *,
    d_lse: SupportsDLPack | None = None,
    causal: bool = False,
    window: _Window = (None, None),
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: SupportsDLPack | None = None,
    bias: SupportsDLPack | None = None,
    mask: SupportsDLPack | None = None,
    sinks: SupportsDLPack | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    device: _Device = None,
) -> tuple[_Array, ...]: ...
def merge_states(
    states: Sequence[tuple[_Array, _Array]], *, device: _Device = None
) -> tuple[_Array, _Array]: ...
def softmax(
    x: _Array,
    *,
    scale: float = 1.0,
    mask: SupportsDLPack | None = None,
    bias: SupportsDLPack | None = None,
    causal: bool = False,
    window: _Window = (None, None),
    log: bool = False,
    out: _Array | None = None,
    device: _Device = None,
) -> _Array: ...
def softmax_backward(
    dy: SupportsDLPack,
    y: _Array,
    *,
    scale: float = 1.0,
    log: bool = False,
    out: _Array | None = None,
    device: _Device = None,
) -> _Array: ...
def layer_norm(
    x: _Array,
    weight: SupportsDLPack | None = None,
    bias: SupportsDLPack | None = None,
    eps: float = 1e-5,
    *,
    zero_centered: bool = False,
    residual: SupportsDLPack | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    return_stats: bool = False,
    out: _Array | None = None,
    device: _Device = None,
) -> Any: ...  # y, or a tuple: with a residual, dropout or return_stats
def rms_norm(
    x: _Array,
    weight: SupportsDLPack | None = None,
    eps: float = 1e-6,
    *,
    zero_centered: bool = False,
    residual: SupportsDLPack | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    return_stats: bool = False,
    out: _Array | None = None,
    device: _Device = None,
) -> Any: ...  # y, or a tuple: with a residual, dropout or return_stats
def layer_norm_backward(
    dy: SupportsDLPack,
    x: _Array,
    weight: SupportsDLPack | None = None,
    mean: SupportsDLPack | None = None,
    rstd: SupportsDLPack | None = None,
    *,
    bias: SupportsDLPack | None = None,
    eps: float = 1e-5,
    d_residual: SupportsDLPack | None = None,
    zero_centered: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    device: _Device = None,
) -> tuple[_Array | None, ...]: ...
def rms_norm_backward(
    dy: SupportsDLPack,
    x: _Array,
    weight: SupportsDLPack | None = None,
    rstd: SupportsDLPack | None = None,
    *,
    eps: float = 1e-6,
    d_residual: SupportsDLPack | None = None,
    zero_centered: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    device: _Device = None,
) -> tuple[_Array | None, ...]: ...
def devices() -> list[str]: ...
def kernels() -> list[KernelInfo]: ...
