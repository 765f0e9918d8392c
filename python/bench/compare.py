"""warpfold's Python package beside PyTorch, on the same inputs, in turns.

On the CPU warpfold computes in a process of its own, with as many threads. On a GPU everything runs on PyTorch's current
stream, against each of PyTorch's attention back ends, and against flash_attn, flashinfer and quack where they are installed.
The ratio is the other side's median time over warpfold's: above 1, warpfold is faster. warpfold's functions are called as they
are; PyTorch's backward passes go through autograd, which has nothing else to do there.

Each result is checked against a computation in float64 first. A problem whose results disagree is reported and not timed,
and the exit status is then 1.

Rates: attention as 4 * head_dim FLOP for each visible pair of query and key forward, 2.5 times as many backward; the
others, and attention of a single query, in bytes, each input read once and each output written once.
"""

import argparse
import math
import os
import sys
from pathlib import Path

import torch

import on_cpu
import on_cuda
from problems import problems
from record import Csv, Machine, Table, row


def arguments_of(line=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda:N; by default cuda:0 if there is one, else cpu")
    parser.add_argument("--only", metavar="TEXT", default="", help="only problems whose name contains this")
    parser.add_argument("--seconds", metavar="N", type=float, help="time of each problem, checks aside (2; on a GPU 0.5)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", metavar="N", type=int, default=cores, help=f"of either side on the CPU ({cores})")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="append the figures to this file")
    parser.add_argument("--plots", metavar="FOLDER", type=Path, help="draw rates over sizes there (takes matplotlib)")
    help_of_sizes = "also time each operation over its size; by default where plots are drawn"
    parser.add_argument("--sizes", action=argparse.BooleanOptionalAction, help=help_of_sizes)
    parser.add_argument("--list", action="store_true", help="only list the problems")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(line)
    arguments.device = arguments.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    if arguments.device == "cuda":
        arguments.device = "cuda:0"
    kind = arguments.device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        parser.error(f"--device is cpu or cuda:N, not {arguments.device}")
    if kind == "cuda" and not torch.cuda.is_available() and not arguments.list:
        parser.error("PyTorch sees no GPU")
    if arguments.threads < 1:
        parser.error("--threads is at least 1")
    if arguments.seconds is None:
        arguments.seconds = 0.5 if kind == "cuda" else 2.0
    if arguments.sizes is None:
        arguments.sizes = arguments.plots is not None
    return arguments


def main() -> int:
    arguments = arguments_of()
    if arguments.worker:
        on_cpu.serve()
        return 0
    kind = arguments.device.split(":")[0]
    chosen = [problem for problem in problems(kind, arguments.sizes) if arguments.only in problem.name]
    if arguments.list or not chosen:
        print("\n".join(problem.name for problem in chosen) or f'no problem has "{arguments.only}" in its name')
        return 0 if chosen else 2
    if arguments.plots:
        # A missing matplotlib shall show before the timing, not after it.
        try:
            import plots
        except ImportError as error:
            sys.exit(f"--plots takes matplotlib (pip install matplotlib): {error}")
    try:
        file = Csv(arguments.csv) if arguments.csv else None
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    if kind == "cpu":
        torch.set_num_threads(arguments.threads)
        worker = on_cpu.Worker([sys.executable, __file__, "--worker"], arguments.threads)
        version, compare = worker.version, lambda problem: on_cpu.compare(problem, worker, arguments.seconds)
    else:
        import warpfold

        torch.cuda.set_device(arguments.device)
        version = warpfold.__version__
        compare = lambda problem: on_cuda.compare(problem, arguments.device, arguments.seconds)
    machine = Machine.of(arguments.device, arguments.threads, version)
    table, outcomes, rows, is_interrupted = Table(machine, chosen), [], [], False
    try:
        for problem in chosen:
            table.begin(problem)
            for outcome in compare(problem):
                table.add(outcome)
                outcomes.append(outcome)
                rows.append(row(outcome, machine))
                if file:
                    file.append(rows[-1])
    except KeyboardInterrupt:
        is_interrupted = True
        table.end()
        print("interrupted; what follows is of the problems so far")
    table.end()
    if kind == "cpu":
        worker.close()
    summarise(outcomes, kind)
    if arguments.plots:
        for drawn in plots.draw(rows, arguments.plots):
            print(f"drawn: {drawn}")
    if is_interrupted:
        return 130
    return 1 if any(outcome.is_failure for outcome in outcomes) else 0


def summarise(outcomes, kind: str):
    """The geometric mean of the ratios of each operation, against the best of the other side."""
    best = {}
    for outcome in outcomes:
        name = outcome.problem.name
        if outcome.ratio and (name not in best or outcome.ratio < best[name].ratio):
            best[name] = outcome
    of_operations = {}
    for outcome in best.values():
        of_operations.setdefault((outcome.problem.operation, outcome.problem.dtype), []).append(outcome.ratio)
    print()
    for (operation, dtype), ratios in of_operations.items():
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{operation} {dtype}: {mean:.2f} ({min(ratios):.2f} to {max(ratios):.2f} of {len(ratios)})")
    with_goal = [outcome for outcome in best.values() if outcome.problem.goal] if kind == "cpu" else []
    if with_goal:
        missed = sum(outcome.ratio < outcome.problem.goal for outcome in with_goal)
        print(f"{missed} of {len(with_goal)} problems with a goal are below it")
    failures = sum(outcome.is_failure for outcome in outcomes)
    if failures:
        print(f"{failures} results are wrong or missing: see above")


if __name__ == "__main__":
    sys.exit(main())
