"""What is timed: operations on shapes, with the work that each of them takes.

Rows are the problems that records keep; series are the same operation over a size, for plots.
"""

from __future__ import annotations

import dataclasses
import math

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
LAYER_NORM_EPS, RMS_NORM_EPS = 1e-5, 1e-6

ATTENTION_OPERATIONS = ("attention forward", "attention backward")
ROW_OPERATIONS = ("softmax", "softmax backward", "layer_norm", "layer_norm backward", "rms_norm", "rms_norm backward")

# Attention on a GPU is timed over so many tokens of so many columns, however long the sequences are.
TOKENS, COLUMNS = 16384, 2048
# Elements of the rows of a series.
ELEMENTS = {"cpu": 1 << 20, "cuda": 64 << 20}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One operation on inputs of some shapes.

    Inputs, as ``shapes`` has them: q, k, v of attention, x of softmax, x, weight, bias of layer norm, x, weight of RMS norm;
    and after them the gradient of the output, backward.
    """

    operation: str
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    causal: bool = False
    # Whether each call makes its output; else it is written into given memory, by the libraries that can.
    allocates: bool = False
    # The ratio that is aimed at.
    goal: float | None = None
    # The plot that it belongs to, and its place on the axis there.
    series: str = ""
    size: int = 0

    @property
    def is_attention(self) -> bool:
        return self.operation.startswith("attention")

    @property
    def is_backward(self) -> bool:
        return self.operation.endswith("backward")

    @property
    def name(self) -> str:
        shape = "x".join(map(str, self.shapes[0]))
        if self.is_attention and self.shapes[1] != self.shapes[0]:
            shape += " on " + "x".join(map(str, self.shapes[1]))
        options = (" causal" if self.causal else "") + (" allocating" if self.allocates else "")
        return f"{self.operation} {self.dtype} {shape}{options}"

    def inputs(self, device: str, seed: int = 1) -> list[torch.Tensor]:
        """Values around 0.1, so that a mean that is left out shows."""
        random = torch.Generator(device).manual_seed(seed)
        make = lambda shape: torch.randn(shape, generator=random, device=device) * 0.87 + 0.1
        return [make(shape).to(DTYPES[self.dtype]) for shape in self.shapes]

    @property
    def bytes_moved(self) -> int:
        """Each input read once and each output written once."""
        size = DTYPES[self.dtype].itemsize
        if self.is_attention:
            q, k, v = (math.prod(shape) for shape in self.shapes[:3])
            return size * (2 * (2 * q + k + v) if self.is_backward else 2 * q + k + v)
        x, *parameters = (math.prod(shape) for shape in self.shapes)
        if not self.is_backward:
            return size * (2 * x + sum(parameters))
        # The weight is read, and every parameter's gradient written; the bias itself is not needed.
        *parameters, _ = parameters
        return size * (3 * x + sum(parameters) + sum(parameters[:1]))

    def work(self) -> tuple[int, str]:
        """The work of a call, and its unit: FLOP of attention, bytes (B) of what only moves its data.

        Attention takes 4 * head_dim FLOP for each visible pair of query and key forward, and 2.5 times as many backward.
        """
        if not self.is_attention or self.shapes[0][2] == 1:
            return self.bytes_moved, "B"
        batch, heads, len_q, head_dim = self.shapes[0]
        pairs = batch * heads * (len_q * (len_q + 1) // 2 if self.causal else len_q * self.shapes[1][2])
        return (10 if self.is_backward else 4) * head_dim * pairs, "FLOP"


def attention(operation: str, dtype: str, batch: int, heads: int, length: int, head_dim: int, **options) -> Problem:
    shapes = ((batch, heads, length, head_dim),) * (4 if operation.endswith("backward") else 3)
    return Problem(operation, dtype, shapes, **options)


def rows(operation: str, dtype: str, count: int, columns: int, **options) -> Problem:
    num_parameters = {"softmax": 0, "layer_norm": 2, "rms_norm": 1}[operation.split()[0]]
    d_output = ((count, columns),) if operation.endswith("backward") else ()
    return Problem(operation, dtype, ((count, columns), *((columns,),) * num_parameters, *d_output), **options)


def common() -> list[Problem]:
    """The rows of every device."""
    found = []
    for dtype in DTYPES:
        is_f32 = dtype == "f32"
        for length, head_dim, causal in (
            (512, 64, False),
            (2048, 64, False),
            (2048, 64, True),
            (2048, 128, True),
            (4096, 128, True),
        ):
            goal = (1.3 if is_f32 else 2.2) if causal else (1.05 if is_f32 else 1.8)
            found.append(attention("attention forward", dtype, 1, 8, length, head_dim, causal=causal, goal=goal))
        for length, head_dim in ((1024, 64), (2048, 128)):
            goal = 1.2 if is_f32 else 1.5
            found.append(attention("attention backward", dtype, 1, 8, length, head_dim, causal=True, goal=goal))
        one_query = ((1, 32, 1, 128), (1, 32, 4096, 128), (1, 32, 4096, 128))
        found.append(Problem("attention forward", dtype, one_query, goal=2.0 if is_f32 else 5.0))
        for size in (1024, 4096):
            for operation in ("softmax", "layer_norm", "rms_norm"):
                found.append(rows(operation, dtype, size, size, goal=1.5 if is_f32 else 4.0))
                found.append(rows(operation, dtype, size, size, allocates=True, goal=1.0))
    return found


def of_gpu() -> list[Problem]:
    """The rows of benches/pytorch.py."""
    found = []
    for operation in ATTENTION_OPERATIONS:
        for head_dim in (64, 128, 256):
            for causal in (False, True):
                series = f"bf16, head_dim {head_dim}, {'causal' if causal else 'no mask'}, {TOKENS:,} tokens"
                for length in (512, 1024, 2048, 4096, 8192, 16384):
                    shape = (TOKENS // length, COLUMNS // head_dim, length, head_dim)
                    options = {"causal": causal, "series": series, "size": length}
                    found.append(attention(operation, "bf16", *shape, **options))
    for operation in ROW_OPERATIONS:
        for dtype in DTYPES:
            for columns in (1024, 4096, 16384):
                found.append(rows(operation, dtype, ELEMENTS["cuda"] // columns, columns))
    return found


def series(kind: str) -> list[Problem]:
    """Every operation over its size, on a kind of device: cpu or cuda."""
    found = []
    for operation in ATTENTION_OPERATIONS:
        for dtype in DTYPES:
            for length in (128, 256, 512, 1024, 2048, 4096):
                options = {"causal": True, "series": f"{dtype}, 8 heads, head_dim 64, causal", "size": length}
                found.append(attention(operation, dtype, 1, 8, length, 64, **options))
    for operation in ROW_OPERATIONS:
        for dtype in DTYPES:
            for columns in (256, 512, 1024, 2048, 4096, 8192, 16384):
                options = {"series": f"{dtype}, {ELEMENTS[kind] >> 20} Mi elements", "size": columns}
                found.append(rows(operation, dtype, ELEMENTS[kind] // columns, columns, **options))
    return found


def problems(kind: str, with_series: bool) -> list[Problem]:
    """The problems of a kind of device, each once: rows that lie on a series take a place in it."""
    found = {problem.name: problem for problem in common() + (of_gpu() if kind == "cuda" else [])}
    for problem in series(kind) if with_series else ():
        row = found.get(problem.name)
        placed = row and dataclasses.replace(row, series=problem.series, size=problem.size)
        found[problem.name] = placed or problem
    return list(found.values())
