"""warpfold's CPU device beside PyTorch's, on the same inputs with as many threads, in one run: `cargo xtask compare`.

    python3 python/bench/cpu.py WORKER [--csv FILE] [--only PART] [--seconds 2] [--threads N]

WORKER is the program `compare`, which computes on warpfold's side. Both sides take turns of some calls and wait for each other,
so that whatever else the machine does hits both; each side's clock is the monotonic one. The ratio is PyTorch's median time
over warpfold's: above 1, warpfold is faster. A row is timed only after both results agreed.

Rates: attention as 4 * head_dim FLOP for each visible pair of query and key forward, 2.5 times as many backward; the others
in bytes, each input read once and each output written once.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# The largest difference of two results that agree, of numbers of about 1: some roundings of the type.
TOLERANCES = {"f32": 2e-5, "bf16": 3e-2}
# Seconds of a side's turn, and between turns.
TURN, PAUSE = 0.02, 0.02


class Problem:
    """One row of the table."""

    def __init__(self, operation, dtype, shapes, *, causal=False, allocates=False, goal=1.0):
        self.operation, self.dtype, self.shapes = operation, dtype, shapes
        self.causal, self.allocates, self.goal = causal, allocates, goal

    def name(self):
        shape = "x".join(map(str, self.shapes[0]))
        if self.operation.startswith("attention") and self.shapes[1] != self.shapes[0]:
            shape += " on " + "x".join(map(str, self.shapes[1]))
        options = (" causal" if self.causal else "") + (" allocating" if self.allocates else "")
        return f"{self.operation} {self.dtype} {shape}{options}"

    def inputs(self):
        random = torch.Generator().manual_seed(1)
        return [(torch.randn(shape, generator=random) * 0.87 + 0.1).to(DTYPES[self.dtype]) for shape in self.shapes]

    def work(self):
        """The amount of work of a call, in 1e9 of the unit, and the unit."""
        size = 4 if self.dtype == "f32" else 2
        count = lambda shape: torch.Size(shape).numel()
        if not self.operation.startswith("attention"):
            return (2 * count(self.shapes[0]) + sum(map(count, self.shapes[1:]))) * size / 1e9, "GB/s"
        batch, heads, queries, head_dim = self.shapes[0]
        keys = self.shapes[1][2]
        if queries == 1:
            return (2 * count(self.shapes[0]) + 2 * count(self.shapes[1])) * size / 1e9, "GB/s"
        pairs = batch * heads * queries * (queries + 1) // 2 if self.causal else batch * heads * queries * keys
        return 4e-9 * head_dim * pairs * (2.5 if self.operation.endswith("backward") else 1), "GFLOP/s"

    def pytorch(self, inputs):
        """A call that computes the results, and one that returns them."""
        if self.operation == "attention forward":
            q, k, v = inputs
            with torch.no_grad():
                call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
                return call, lambda: [call()]
        if self.operation == "attention backward":
            *leaves, d_output = inputs
            leaves = [leaf.clone().requires_grad_() for leaf in leaves]
            output = F.scaled_dot_product_attention(*leaves, is_causal=self.causal)
            call = lambda: torch.autograd.grad(output, leaves, d_output, retain_graph=True)
            return call, lambda: list(call())
        x, *parameters = inputs
        shape = x.shape[-1:]
        if self.operation == "rms_norm":
            call = lambda: F.rms_norm(x, shape, parameters[0], 1e-6)
        elif self.allocates:
            call = (lambda: torch.softmax(x, -1)) if self.operation == "softmax" else (lambda: F.layer_norm(x, shape, *parameters, 1e-5))
        else:
            y = torch.empty_like(x)
            if self.operation == "softmax":
                call = lambda: torch.softmax(x, -1, out=y)
            else:
                stats = [torch.empty(*x.shape[:-1], 1, dtype=x.dtype) for _ in range(2)]
                call = lambda: torch.ops.aten.native_layer_norm.out(x, shape, *parameters, 1e-5, out0=y, out1=stats[0], out2=stats[1])
            return call, lambda: (call(), [y])[1]
        return call, lambda: [call()]


def problems():
    """The rows, with the ratio that is the goal of each."""
    rows = []
    for dtype, is_f32 in (("f32", True), ("bf16", False)):
        for length, head_dim, causal in (
            (512, 64, False), (2048, 64, False), (2048, 64, True), (2048, 128, True), (4096, 128, True)):
            goal = (1.3 if is_f32 else 2.2) if causal else (1.05 if is_f32 else 1.8)
            rows.append(Problem("attention forward", dtype, [[1, 8, length, head_dim]] * 3, causal=causal, goal=goal))
        for length, head_dim in ((1024, 64), (2048, 128)):
            shapes = [[1, 8, length, head_dim]] * 4
            rows.append(Problem("attention backward", dtype, shapes, causal=True, goal=1.2 if is_f32 else 1.5))
        decode = [[1, 32, 1, 128], [1, 32, 4096, 128], [1, 32, 4096, 128]]
        rows.append(Problem("attention forward", dtype, decode, goal=2.0 if is_f32 else 5.0))
        goal = 1.5 if is_f32 else 4.0
        for rows_and_columns in ([1024, 1024], [4096, 4096]):
            columns = rows_and_columns[1:]
            for allocates in (False, True):
                rows.append(Problem("softmax", dtype, [rows_and_columns], allocates=allocates, goal=1.0 if allocates else goal))
                shapes = [rows_and_columns, columns, columns]
                rows.append(Problem("layer_norm", dtype, shapes, allocates=allocates, goal=1.0 if allocates else goal))
            # PyTorch's always makes its output.
            rows.append(Problem("rms_norm", dtype, [rows_and_columns, columns], goal=goal))
            rows.append(Problem("rms_norm", dtype, [rows_and_columns, columns], allocates=True))
    return rows


class Worker:
    """warpfold's side."""

    def __init__(self, program, threads):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, line):
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"the worker stopped with status {self.process.wait()}")
        return json.loads(answer)


def write(path, tensor):
    path.write_bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def read(path, like):
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=like.dtype).view(like.shape)


def turn(call):
    """The times of as many calls as take `TURN`, in nanoseconds; of one at least."""
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < TURN:
        began = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - began)
    return times


def median(times):
    return sorted(times)[len(times) // 2]


def compare(problem, worker, folder, seconds):
    """Times both sides in turns; returns both medians in nanoseconds, and the largest difference of their results."""
    inputs = problem.inputs()
    call, results = problem.pytorch(inputs)
    expected = results()
    paths = [[folder / f"{kind}{index}" for index in range(count)] for kind, count in (("in", len(inputs)), ("out", len(expected)))]
    for path, tensor in zip(paths[0], inputs):
        write(path, tensor)
    worker.ask(dict(operation=problem.operation, dtype=problem.dtype, causal=problem.causal, allocates=problem.allocates,
                    shapes=problem.shapes, inputs=list(map(str, paths[0])), outputs=list(map(str, paths[1]))))
    with torch.inference_mode(problem.operation != "attention backward"):
        ours, theirs, turns = [], [], 0
        start = time.perf_counter()
        while turns < 5 or time.perf_counter() - start < seconds:
            # Threads of either side that are done wait for more work a while, and busily.
            time.sleep(PAUSE)
            theirs += turn(call)
            time.sleep(PAUSE)
            ours += worker.ask("run")
            turns += 1
    worker.ask("save")
    difference = max((read(path, like).double() - like.double()).abs().max().item() for path, like in zip(paths[1], expected))
    # Gradients are sums over many rows, and so are their roundings.
    scale = max(1.0, max(like.double().abs().max().item() for like in expected))
    if not difference <= TOLERANCES[problem.dtype] * scale:
        sys.exit(f"{problem.name()}: results differ by {difference:g}, of numbers up to {scale:g}")
    return median(ours), median(theirs), difference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worker", help="the program that computes on warpfold's side")
    parser.add_argument("--csv", type=Path, help="also write the figures to a file")
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=2.0, help="time of each row")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    worker = Worker(arguments.worker, arguments.threads)
    print(f"PyTorch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), {arguments.threads} threads")
    print(f"{'':58} {'PyTorch':>9} {'warpfold':>9} {'':7} {'ratio':>6} {'goal':>5}")
    lines, missed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for problem in problems():
            if arguments.only not in problem.name():
                continue
            ours, theirs, difference = compare(problem, worker, Path(folder), arguments.seconds)
            work, unit = problem.work()
            ratio = theirs / ours
            missed += ratio < problem.goal
            verdict = "" if ratio >= problem.goal else "  below the goal"
            print(f"{problem.name():58} {work / theirs * 1e9:9.1f} {work / ours * 1e9:9.1f} {unit:7} {ratio:6.2f} {problem.goal:5.2f}{verdict}", flush=True)
            lines.append([problem.operation, problem.dtype, problem.name(), f"{theirs / 1e6:.5f}", f"{ours / 1e6:.5f}", unit,
                          f"{work / theirs * 1e9:.1f}", f"{work / ours * 1e9:.1f}", f"{ratio:.3f}", problem.goal, f"{difference:.2g}"])
    print(f"{missed} of {len(lines)} below their goals" if missed else f"all {len(lines)} reach their goals")
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow("operation,dtype,problem,pytorch_ms,warpfold_ms,unit,pytorch_rate,warpfold_rate,ratio,goal,difference".split(","))
            table.writerows(lines)


if __name__ == "__main__":
    main()
