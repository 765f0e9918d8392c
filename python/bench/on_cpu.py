"""Timing on the CPU: warpfold in a process of its own, both sides in turns.

Threads of both sides wait busily for more work when they are done, and would take the cores from each other: hence two
processes, and a pause before each turn. Turns alternate so that whatever else the machine does hits both. The inputs go
over as a file, and each side reads the monotonic clock around each of its calls.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

import sides
from problems import Problem
from record import Outcome, Times
from reference import LEEWAY, Disagreement, Reference

# Seconds of a side's turn, and between turns; and the fewest turns of each.
TURN, PAUSE, FEWEST_TURNS = 0.02, 0.02, 5


def turn(call) -> list[int]:
    """The times of as many calls as take `TURN`, in nanoseconds; of one at least."""
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < TURN:
        began = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - began)
    return times


# warpfold's process ----------------------------------------------------------------------------------------------------------


def serve():
    """Answers lines of JSON with lines of JSON: a problem with "ready" or an error, then "run" with the times of a turn."""
    # Whatever prints must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    # An interrupt from the keyboard reaches both processes, and the other one ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # PyTorch only holds the tensors here.
    torch.set_num_threads(1)
    side = None
    for line in sys.stdin:
        request = json.loads(line)
        if request == "version":
            import warpfold

            answer = warpfold.__version__
        elif request == "run":
            answer = turn(side.calls[0])
        else:
            answer = "ready"
            try:
                side = prepared(request)
            except Exception as error:
                side, answer = None, {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def prepared(request) -> sides.Side:
    shapes = tuple(map(tuple, request["problem"].pop("shapes")))
    side = sides.warpfold(Problem(shapes=shapes, **request["problem"]), [torch.load(request["inputs"])])
    torch.save(side.results(), request["results"])
    return side


class Worker:
    """warpfold's process, as the other one sees it."""

    def __init__(self, command: list[str], threads: int):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=environment)
        self.folder = tempfile.TemporaryDirectory()
        self.version = self.ask("version")

    def ask(self, request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"warpfold's process stopped with status {self.process.wait()}")
        return json.loads(answer)

    def prepare(self, problem: Problem, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """warpfold's results. Raises `Refused`."""
        paths = {name: str(Path(self.folder.name, name)) for name in ("inputs", "results")}
        torch.save(inputs, paths["inputs"])
        answer = self.ask({"problem": dataclasses.asdict(problem), **paths})
        if answer != "ready":
            raise sides.Refused(answer["error"])
        return torch.load(paths["results"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


# PyTorch's process -----------------------------------------------------------------------------------------------------------


def compare(problem: Problem, worker: Worker, seconds: float) -> list[Outcome]:
    """Checks both sides' results, then times them: against the first of PyTorch's back ends that takes the problem."""
    inputs = problem.inputs("cpu")
    reference = Reference(problem, inputs)
    try:
        warpfold_error = reference.error(worker.prepare(problem, inputs))
    except sides.Refused as refused:
        return [Outcome(problem, "", note=f"warpfold failed: {refused}", is_failure=True)]
    except Disagreement as disagreement:
        return [Outcome(problem, "", note=f"warpfold disagrees: {disagreement}", is_failure=True)]
    outcomes = []
    for name, make in sides.rivals(problem, "cpu").items():
        outcome = Outcome(problem, name, warpfold_error=warpfold_error)
        outcomes.append(outcome)
        try:
            rival, results = sides.made(name, partial(make, [inputs]))
            outcome.backend = rival.name
            outcome.rival_error = reference.error(results, LEEWAY)
        except sides.Refused as refused:
            outcome.note = f"refused: {refused}"
            continue
        except Disagreement as disagreement:
            outcome.note, outcome.is_failure = f"PyTorch disagrees: {disagreement}", True
            continue
        del results
        outcome.rival, outcome.warpfold = in_turns(rival, worker, seconds)
        break
    return outcomes


def in_turns(rival: sides.Side, worker: Worker, seconds: float) -> tuple[Times, Times]:
    of_rival, of_warpfold, turns = [], [], 0
    start = time.perf_counter()
    with rival.around():
        while turns < FEWEST_TURNS or time.perf_counter() - start < seconds:
            time.sleep(PAUSE)
            of_rival += turn(rival.calls[0])
            time.sleep(PAUSE)
            of_warpfold += worker.ask("run")
            turns += 1
    return Times(of_rival), Times(of_warpfold)
