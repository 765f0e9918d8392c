"""What a comparison says: a line in the terminal, a row of CSV."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import torch

from problems import Problem

FIELDS = (
    "date,commit,device,warpfold,pytorch,threads,operation,dtype,problem,backend,"
    "pytorch_ms,pytorch_p10_ms,pytorch_p90_ms,warpfold_ms,warpfold_p10_ms,warpfold_p90_ms,"
    "unit,pytorch_rate,warpfold_rate,ratio,goal,pytorch_error,warpfold_error,series,size,note"
).split(",")


class Times:
    """The times of single calls, in nanoseconds."""

    def __init__(self, nanoseconds: list[float]):
        ordered = sorted(nanoseconds)
        at = lambda share: ordered[round((len(ordered) - 1) * share)]
        self.p10, self.median, self.p90 = at(0.1), at(0.5), at(0.9)

    def milliseconds(self) -> list[str]:
        return [f"{time / 1e6:.5f}" for time in (self.median, self.p10, self.p90)]


@dataclasses.dataclass
class Outcome:
    """A problem computed by warpfold and by one other library; without times where there is a note that says why."""

    problem: Problem
    backend: str
    rival: Times | None = None
    warpfold: Times | None = None
    rival_error: float | None = None
    warpfold_error: float | None = None
    note: str = ""
    # Whether the note is about a wrong result, or about no result of warpfold.
    is_failure: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times the speed of the other library warpfold has."""
        return self.rival.median / self.warpfold.median if self.rival and self.warpfold else None

    def rates(self, kind: str) -> tuple[float, float, str]:
        """Those of the other library and of warpfold, and their unit."""
        work, unit = self.problem.work()
        prefix, scale = ("T", 1e12) if kind == "cuda" and unit == "FLOP" else ("G", 1e9)
        rate = lambda times: work / times.median * 1e9 / scale
        return rate(self.rival), rate(self.warpfold), f"{prefix}{unit}/s"


@dataclasses.dataclass
class Machine:
    """Where and with what a comparison ran."""

    kind: str
    device: str
    threads: int
    warpfold: str
    pytorch: str
    commit: str
    date: str

    @classmethod
    def of(cls, device: str, threads: int, warpfold: str) -> Machine:
        kind = device.split(":")[0]
        if kind == "cuda":
            name = torch.cuda.get_device_name(device)
            pytorch = f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
        else:
            name = f"{processor()} ({torch.backends.cpu.get_cpu_capability()})"
            pytorch = torch.__version__
        date = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
        return cls(kind, name, threads, warpfold, pytorch, commit(), date)

    def __str__(self) -> str:
        threads = f", {self.threads} threads on either side" if self.kind == "cpu" else ""
        return f"warpfold {self.warpfold} beside PyTorch {self.pytorch} on {self.device}{threads}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """What a bundle says, else that of the files beside this one; with a + where they differ from it, and empty outside a repository."""
    if "WARPFOLD_COMMIT" in os.environ:
        return os.environ["WARPFOLD_COMMIT"]
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", ":/"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip() + ("+" if changes.stdout.strip() else "")


def row(outcome: Outcome, machine: Machine) -> dict[str, str]:
    """A line of the CSV."""
    problem = outcome.problem
    fields = {field: getattr(machine, field) for field in ("date", "commit", "device", "warpfold", "pytorch")}
    fields |= {"threads": machine.threads if machine.kind == "cpu" else ""}
    fields |= {"operation": problem.operation, "dtype": problem.dtype, "problem": problem.name}
    fields |= {"series": problem.series, "size": problem.size or "", "backend": outcome.backend, "note": outcome.note}
    for side, error in (("pytorch", outcome.rival_error), ("warpfold", outcome.warpfold_error)):
        fields[f"{side}_error"] = "" if error is None else f"{error:.2g}"
    # Goals are of the CPU.
    fields["goal"] = problem.goal if problem.goal and machine.kind == "cpu" else ""
    if outcome.ratio:
        for side, times in (("pytorch", outcome.rival), ("warpfold", outcome.warpfold)):
            fields |= dict(zip((f"{side}_ms", f"{side}_p10_ms", f"{side}_p90_ms"), times.milliseconds()))
        of_rival, of_warpfold, unit = outcome.rates(machine.kind)
        fields |= {"unit": unit, "pytorch_rate": f"{of_rival:.4g}", "warpfold_rate": f"{of_warpfold:.4g}"}
        fields["ratio"] = f"{outcome.ratio:.3f}"
    return {field: str(fields.get(field, "")) for field in FIELDS}


class Csv:
    """A file that rows are appended to as they come, so that a run that is cut short leaves its first ones."""

    def __init__(self, path: Path):
        is_new = not path.exists() or path.stat().st_size == 0
        if not is_new:
            with open(path, newline="") as file:
                # A record may begin with lines about it.
                header = next((line for line in file if not line.startswith("#")), "")
            if header.strip().split(",") != FIELDS:
                raise ValueError(f"{path} has other columns than this program writes; name a new file")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "a", newline="")
        self.writer = csv.DictWriter(self.file, FIELDS, lineterminator="\n")
        if is_new:
            self.writer.writeheader()
            self.file.flush()

    def append(self, fields: dict[str, str]):
        self.writer.writerow(fields)
        self.file.flush()


class Table:
    """The lines of the terminal, with the problem in work below them while somebody watches."""

    def __init__(self, machine: Machine, problems: list[Problem]):
        self.kind, self.total, self.done = machine.kind, len(problems), 0
        self.is_watched = sys.stdout.isatty()
        self.width = max(len(problem.name) for problem in problems)
        self.print(f"{machine}")
        heads = f"{'times in ms':{self.width}}  {'against':12} {'PyTorch':>10} {'warpfold':>10}"
        self.print(f"{heads} {'PyTorch':>9} {'warpfold':>9} {'':8} {'ratio':>6}{' goal' if self.kind == 'cpu' else '':>6}")

    def print(self, line: str):
        # The progress line is cleared first.
        print(f"\r\x1b[K{line}" if self.is_watched else line, flush=True)

    def begin(self, problem: Problem):
        self.done += 1
        if self.is_watched:
            print(f"\r\x1b[K[{self.done}/{self.total}] {problem.name}", end="", flush=True)

    def end(self):
        if self.is_watched:
            print("\r\x1b[K", end="", flush=True)

    def add(self, outcome: Outcome):
        line = f"{outcome.problem.name:{self.width}}  {outcome.backend:12} "
        if not outcome.ratio:
            # Reasons can be long; the file has all of them.
            self.print(line + textwrap.shorten(outcome.note, 100, placeholder=" ..."))
            return
        of_rival, of_warpfold, unit = outcome.rates(self.kind)
        for times in (outcome.rival, outcome.warpfold):
            milliseconds = times.median / 1e6
            line += f"{milliseconds:10.{3 if milliseconds >= 1 else 5}f} "
        for rate in (of_rival, of_warpfold):
            line += f"{rate:9.{1 if rate >= 10 else 3}f} "
        line += f"{unit:8} {outcome.ratio:6.2f}"
        goal = outcome.problem.goal
        if goal and self.kind == "cpu":
            line += f" {goal:5.2f}" + ("" if outcome.ratio >= goal else "  below")
        self.print(line)
