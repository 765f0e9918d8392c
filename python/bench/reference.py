"""What the operations compute, in float64 from their formulas, and how far a result may be from it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from problems import LAYER_NORM_EPS, RMS_NORM_EPS, Problem

# How far warpfold's results may be off: ||result - reference|| / ||reference||, and the largest difference over the largest
# value. A result of bf16 is rounded by up to 0.4 %, and so are the weights of attention on their way.
NORM_LIMIT = {"f32": 2e-5, "bf16": 1e-2}
ELEMENT_LIMIT = {"f32": 5e-5, "bf16": 3e-2}
# How many times that for other libraries: PyTorch's layer norm adds up the gradient of bf16's weights in bf16 on the CPU, and
# is 6 % off after 4096 rows. That is worth a look at its error, but no reason not to time it.
LEEWAY = 10
# FLOP of attention in float64 that are worth spending on a check: a larger problem is checked in some of its heads, the
# first and the last among them.
FLOP_OF_CHECK = {"cpu": 1e11, "cuda": 1e12}
# Elements of the scores that are in memory at once.
BLOCK_ELEMENTS = 1 << 24


class Disagreement(Exception):
    """A result that is further from the reference than roundings explain."""


class Reference:
    """The results of a problem on these inputs, in float64."""

    def __init__(self, problem: Problem, inputs: list[torch.Tensor]):
        self.problem = problem
        self.heads = None
        if problem.is_attention:
            self.heads = picked_heads(problem, inputs[0].device.type)
            of_heads = [attention(*head, problem.causal) for head in zip(*(self._picked(x) for x in inputs))]
            self.expected = [torch.stack(parts) for parts in zip(*of_heads)]
        else:
            self.expected = of_rows(problem, [x.double() for x in inputs])

    def _picked(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.heads is None else tensor.flatten(0, 1)[self.heads]

    def error(self, results: list[torch.Tensor], leeway: float = 1) -> float:
        """The largest ||result - reference|| / ||reference||. Raises `Disagreement` if it, or an element, is too far off."""
        if len(results) != len(self.expected):
            raise Disagreement(f"{len(results)} results instead of {len(self.expected)}")
        largest = 0.0
        for index, (result, expected) in enumerate(zip(results, self.expected)):
            difference = self._picked(result.detach()).to(expected.device).double() - expected
            of_norm = (difference.norm() / expected.norm()).item()
            of_element = (difference.abs().max() / expected.abs().max()).item()
            norm_limit, element_limit = (leeway * limit[self.problem.dtype] for limit in (NORM_LIMIT, ELEMENT_LIMIT))
            # NaN compares as False, and must not pass.
            if not (of_norm <= norm_limit and of_element <= element_limit):
                which = f"result {index + 1} of {len(results)}" if len(results) > 1 else "the result"
                raise Disagreement(f"{which} is off by {of_norm:.1e} in norm and {of_element:.1e} in an element")
            largest = max(largest, of_norm)
        return largest


def picked_heads(problem: Problem, kind: str) -> list[int]:
    (batch, num_heads, len_q, head_dim), len_kv = problem.shapes[0], problem.shapes[1][2]
    heads = batch * num_heads
    flop = (10 if problem.is_backward else 4) * head_dim * len_q * len_kv
    count = min(heads, max(2, int(FLOP_OF_CHECK[kind] / flop)))
    return [round(index * (heads - 1) / max(count - 1, 1)) for index in range(count)]


def attention(q, k, v, *further):
    """The output of one head, or the gradients of q, k and v: the inputs are [len, head_dim]; d_output if any; causal."""
    *d_output, causal = further
    q, k, v = q.double(), k.double(), v.double()
    scale = q.shape[1] ** -0.5
    positions = torch.arange(k.shape[0], device=q.device)
    output, d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    count = max(1, BLOCK_ELEMENTS // k.shape[0])
    for start in range(0, q.shape[0], count):
        block = slice(start, start + count)
        scores = q[block] @ k.T * scale
        if causal:
            scores.masked_fill_(positions[None, :] > positions[block, None], -torch.inf)
        weights = scores.softmax(-1)
        output[block] = weights @ v
        for d_out in d_output:
            d_out = d_out[block].double()
            d_weights = d_out @ v.T
            d_scores = weights * (d_weights - (d_out * output[block]).sum(-1, keepdim=True)) * scale
            d_q[block] = d_scores @ k
            d_k += d_scores.T @ q[block]
            d_v += weights.T @ d_out
    return (d_q, d_k, d_v) if d_output else (output,)


def of_rows(problem: Problem, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    function = {
        "softmax": lambda x: x.softmax(-1),
        "layer_norm": lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, LAYER_NORM_EPS),
        "rms_norm": lambda x, weight: x * (x.square().mean(-1, keepdim=True) + RMS_NORM_EPS).rsqrt() * weight,
    }[problem.operation.split()[0]]
    if not problem.is_backward:
        return [function(*inputs)]
    *leaves, d_output = inputs
    leaves = [leaf.requires_grad_() for leaf in leaves]
    return list(torch.autograd.grad(function(*leaves), leaves, d_output))
