"""Who computes: warpfold, PyTorch by each of its back ends, and other libraries where they are installed."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from problems import LAYER_NORM_EPS, RMS_NORM_EPS, Problem

Sets = list[list[torch.Tensor]]

SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def listed(result) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


@dataclasses.dataclass
class Side:
    """A library that computes a problem, ready to be timed."""

    name: str
    # A call for each set of inputs.
    calls: list[Callable[[], object]]
    # What is entered once around many calls.
    around: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    # Makes what a call returns the results in the problem's layout.
    results_of: Callable[[object], list[torch.Tensor]] = listed

    def results(self) -> list[torch.Tensor]:
        """The results of the first set."""
        with self.around():
            return self.results_of(self.calls[0]())


class Refused(Exception):
    """A library does not take a problem, for this reason."""


def made(name: str, make: Callable[[], Side]) -> tuple[Side, list[torch.Tensor]]:
    """A side and its results. Raises `Refused` with the library's reason."""
    with warnings.catch_warnings(record=True) as caught:
        # Back ends say in warnings why they do not take a problem, and the exception then only that none is left.
        warnings.simplefilter("always")
        try:
            side = make()
            return side, side.results()
        except torch.OutOfMemoryError:
            raise Refused("out of memory") from None
        except Exception as error:
            told = [str(warning.message) for warning in caught]
            told = [text.split(" (Triggered internally")[0] for text in told if "because" in text or "requires" in text]
            reason = "; ".join(dict.fromkeys(told)) or str(error) or type(error).__name__
            raise Refused(" ".join(reason.split())[:300]) from None


# warpfold --------------------------------------------------------------------------------------------------------------------


def warpfold(problem: Problem, sets: Sets) -> Side:
    """Outputs are written into given memory, one for each set, if the problem says so and the function can."""
    import warpfold as wf

    causal = {"causal": True} if problem.causal else {}
    into = (lambda like: {}) if problem.allocates else (lambda like: {"out": torch.empty_like(like)})

    def attention(q, k, v):
        return partial(wf.attention, q, k, v, **causal, **into(q))

    def attention_backward(q, k, v, d_out):
        out, lse = wf.attention(q, k, v, return_lse=True, **causal)
        return partial(wf.attention_backward, d_out, q, k, v, out, lse, **causal)

    def softmax(x):
        return partial(wf.softmax, x, **into(x))

    def softmax_backward(x, dy):
        return partial(wf.softmax_backward, dy, wf.softmax(x), **into(x))

    def layer_norm(x, weight, bias):
        return partial(wf.layer_norm, x, weight, bias, LAYER_NORM_EPS, **into(x))

    def layer_norm_backward(x, weight, bias, dy):
        _, mean, rstd = wf.layer_norm(x, weight, bias, LAYER_NORM_EPS, return_stats=True)
        return partial(wf.layer_norm_backward, dy, x, weight, mean, rstd, bias=bias, eps=LAYER_NORM_EPS)

    def rms_norm(x, weight):
        return partial(wf.rms_norm, x, weight, RMS_NORM_EPS, **into(x))

    def rms_norm_backward(x, weight, dy):
        _, rstd = wf.rms_norm(x, weight, RMS_NORM_EPS, return_stats=True)
        return partial(wf.rms_norm_backward, dy, x, weight, rstd, eps=RMS_NORM_EPS)

    function = {
        "attention forward": attention,
        "attention backward": attention_backward,
        "softmax": softmax,
        "softmax backward": softmax_backward,
        "layer_norm": layer_norm,
        "layer_norm backward": layer_norm_backward,
        "rms_norm": rms_norm,
        "rms_norm backward": rms_norm_backward,
    }[problem.operation]
    return Side("warpfold", [function(*inputs) for inputs in sets])


# PyTorch ---------------------------------------------------------------------------------------------------------------------


def differentiable(problem: Problem, name: str, function, sets: Sets, around=contextlib.nullcontext, **layout) -> Side:
    """A side of a function that autograd knows."""
    if not problem.is_backward:

        @contextlib.contextmanager
        def without_grad():
            with torch.inference_mode(), around():
                yield

        return Side(name, [partial(function, *inputs) for inputs in sets], without_grad, **layout)
    calls = []
    with around():
        for *leaves, d_output in sets:
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            calls.append(partial(torch.autograd.grad, function(*leaves), leaves, d_output, retain_graph=True))
    return Side(name, calls, around, **layout)


def pytorch_attention(backend: str, problem: Problem, sets: Sets) -> Side:
    function = partial(F.scaled_dot_product_attention, is_causal=problem.causal)
    return differentiable(problem, backend, function, sets, lambda: sdpa_kernel(SDPA[backend]))


def pytorch_rows(problem: Problem, sets: Sets) -> Side:
    """PyTorch's norms always make their output: the `out` variant of layer norm copies it from a tensor of its own."""
    operation = problem.operation.split()[0]
    if problem.operation == "softmax" and not problem.allocates:
        calls = [partial(torch.softmax, x, -1, out=torch.empty_like(x)) for (x,) in sets]
        return Side("eager out", calls, torch.inference_mode)
    shape = problem.shapes[0][-1:]
    function = {
        "softmax": lambda x: torch.softmax(x, -1),
        "layer_norm": lambda x, weight, bias: F.layer_norm(x, shape, weight, bias, LAYER_NORM_EPS),
        "rms_norm": lambda x, weight: F.rms_norm(x, shape, weight, RMS_NORM_EPS),
    }[operation]
    return differentiable(problem, "eager", function, sets)


# Other libraries -------------------------------------------------------------------------------------------------------------


def flash_attn(module: str, problem: Problem, sets: Sets) -> Side:
    """FlashAttention 2 (`flash_attn`) or 3 (`flash_attn_interface`), whose layout is [batch, len, heads, head_dim]."""
    function = importlib.import_module(module).flash_attn_func
    transposed = [[tensor.transpose(1, 2).contiguous() for tensor in inputs] for inputs in sets]

    def call(q, k, v):
        result = function(q, k, v, causal=problem.causal)
        return result[0] if isinstance(result, tuple) else result

    back = lambda result: [tensor.transpose(1, 2) for tensor in listed(result)]
    return differentiable(problem, module, call, transposed, results_of=back)


def flashinfer(problem: Problem, sets: Sets) -> Side:
    """FlashInfer, forward only, whose layout is [tokens, heads, head_dim] with the starts of the sequences beside it."""
    import flashinfer as library

    if problem.is_backward:
        raise Refused("it has no backward pass")
    (batch, heads, len_q, head_dim), len_kv = problem.shapes[0], problem.shapes[1][2]
    device = sets[0][0].device
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=device)
    wrapper = library.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD")
    starts = [torch.arange(batch + 1, dtype=torch.int32, device=device) * length for length in (len_q, len_kv)]
    wrapper.plan(*starts, heads, heads, head_dim, causal=problem.causal, q_data_type=sets[0][0].dtype)
    packed = [[tensor.transpose(1, 2).flatten(0, 1).contiguous() for tensor in inputs] for inputs in sets]
    calls = [partial(wrapper.run, *inputs) for inputs in packed]
    back = lambda result: [result.unflatten(0, (batch, len_q)).transpose(1, 2)]
    return Side("flashinfer", calls, torch.inference_mode, back)


def quack(problem: Problem, sets: Sets) -> Side:
    import quack as library

    operation = problem.operation.split()[0]
    if operation == "softmax":
        function = library.softmax
    elif operation == "rms_norm":
        function = lambda x, weight: library.rmsnorm(x, weight, eps=RMS_NORM_EPS)
    else:
        raise Refused("it has no layer norm among its functions")
    return differentiable(problem, "quack", function, sets)


# All of them -----------------------------------------------------------------------------------------------------------------


def rivals(problem: Problem, kind: str) -> dict[str, Callable[[Sets], Side]]:
    """What warpfold is compared with on a kind of device, by name: functions that make the sides."""
    if not problem.is_attention:
        found = {"eager": partial(pytorch_rows, problem)}
    elif kind == "cuda":
        found = {backend: partial(pytorch_attention, backend, problem) for backend in SDPA}
    else:
        # PyTorch has these two on the CPU, and takes the first where it can.
        found = {backend: partial(pytorch_attention, backend, problem) for backend in ("flash", "math")}
    if kind == "cuda":
        further = {"quack": partial(quack, problem)}
        if problem.is_attention:
            further = {module: partial(flash_attn, module, problem) for module in ("flash_attn", "flash_attn_interface")}
            further["flashinfer"] = partial(flashinfer, problem)
        found |= {module: make for module, make in further.items() if importlib.util.find_spec(module)}
    return found
