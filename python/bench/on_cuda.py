"""Timing on a GPU: all sides in one process, on PyTorch's current stream, with CUDA events around single calls.

Calls go round many sets of inputs, more than three times the L2 cache together, so that none finds its own there. Sides take
turns, so that a change of clocks hits all.
"""

from __future__ import annotations

import gc
import time
from functools import partial

import torch

import sides
from problems import Problem
from record import Outcome, Times
from reference import LEEWAY, Disagreement, Reference

# Milliseconds of a side's turn, the most calls in it, and the fewest turns of each side. A stream takes about a thousand
# launches before the host has to wait, and some calls make several.
TURN_MS, MOST_CALLS, FEWEST_TURNS = 20.0, 100, 5
# The longest that a device waits for the host: the first calls compile kernels, which takes seconds and tells nothing.
LONGEST_WAIT_SECONDS = 0.1
# How many of the L2 cache's sizes the sets of inputs are together, at least.
CACHES = 3
# Cycles a second of a clock that no GPU reaches; a longer wait of the device than needed costs only time.
CLOCK = 3e9


def compare(problem: Problem, device: str, seconds: float) -> list[Outcome]:
    """Checks all sides' results, then times them: one outcome for each library and back end."""
    cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    count = max(2, CACHES * cache_bytes // problem.bytes_moved + 1)
    sets = [problem.inputs(device, seed) for seed in range(1, count + 1)]
    reference = Reference(problem, sets[0])
    try:
        warpfold, results = sides.made("warpfold", partial(sides.warpfold, problem, sets))
        warpfold_error = reference.error(results)
    except sides.Refused as refused:
        return [Outcome(problem, "", note=f"warpfold failed: {refused}", is_failure=True)]
    except Disagreement as disagreement:
        return [Outcome(problem, "", note=f"warpfold disagrees: {disagreement}", is_failure=True)]
    outcomes, rivals = [], []
    for name, make in sides.rivals(problem, "cuda").items():
        outcome = Outcome(problem, name, warpfold_error=warpfold_error)
        outcomes.append(outcome)
        try:
            rival, results = sides.made(name, partial(make, sets))
            outcome.backend = rival.name
            outcome.rival_error = reference.error(results, LEEWAY)
            rivals.append((rival, outcome))
        except sides.Refused as refused:
            outcome.note = f"refused: {refused}"
            # What a side that ran out of memory has left behind is in cycles, through its exception.
            gc.collect()
            torch.cuda.empty_cache()
        except Disagreement as disagreement:
            outcome.note, outcome.is_failure = f"{name} disagrees: {disagreement}", True
    del results, reference
    torch.cuda.empty_cache()
    if rivals:
        of_warpfold, *of_rivals = in_turns([warpfold, *(rival for rival, _ in rivals)], seconds)
        for (_, outcome), times in zip(rivals, of_rivals):
            outcome.rival, outcome.warpfold = times, of_warpfold
            outcome.note = "" if times else "refused: out of memory while the others hold theirs"
    return outcomes


def in_turns(all_sides: list[sides.Side], seconds: float) -> list[Times | None]:
    """The times of each side, over at least `seconds` of all; none of a side that runs out of memory."""
    turns = [Turn(side) for side in all_sides]
    start, rounds = time.perf_counter(), 0
    while rounds < FEWEST_TURNS or time.perf_counter() - start < seconds:
        for turn in turns:
            if not turn.is_out_of_memory:
                turn.take()
        rounds += 1
    return [None if turn.is_out_of_memory else Times(turn.nanoseconds) for turn in turns]


class Turn:
    """One side's turns, which go on through its sets where the last one ended."""

    def __init__(self, side: sides.Side):
        self.side, self.next, self.num_calls, self.host_seconds = side, 0, 3, 1e-3
        self.nanoseconds, self.is_out_of_memory = [], False
        # The first turn loads kernels and lets libraries choose among theirs; the second gives the times to plan with.
        for _ in range(2):
            self.nanoseconds = []
            self.take()
        if self.nanoseconds:
            expected_ms = max(Times(self.nanoseconds).median / 1e6, 1e-3)
            self.num_calls = min(max(int(TURN_MS / expected_ms), 1), MOST_CALLS)
        self.nanoseconds = []

    def take(self):
        try:
            self.time_calls()
        except torch.OutOfMemoryError:
            self.is_out_of_memory = True
            torch.cuda.empty_cache()

    def time_calls(self):
        calls, num_sets = self.side.calls, len(self.side.calls)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(self.num_calls + 1)]
        with self.side.around():
            torch.cuda.synchronize()
            # The device waits until all calls are queued: short ones would be timed as what Python takes to make them.
            wait_seconds = min(self.host_seconds * (self.num_calls + 1), LONGEST_WAIT_SECONDS)
            torch.cuda._sleep(int(wait_seconds * CLOCK))
            began = time.perf_counter()
            events[0].record()
            for index in range(self.num_calls):
                calls[(self.next + index) % num_sets]()
                events[index + 1].record()
            self.host_seconds = (time.perf_counter() - began) / self.num_calls
            torch.cuda.synchronize()
        self.next = (self.next + self.num_calls) % num_sets
        self.nanoseconds += [a.elapsed_time(b) * 1e6 for a, b in zip(events, events[1:])]
