"""Plots of a record: for each operation, the rate over the size, warpfold beside the other libraries.

    python3 plots.py CSV FOLDER

draws those of a file that `compare.py --csv` wrote; `compare.py --plots FOLDER` draws those of its own run.
"""

from __future__ import annotations

import csv
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

import matplotlib

# Files only: nothing here needs a display.
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

WARPFOLD = "#0b62a4"
# By the order in which libraries come in the record.
RIVALS = ("#d1661f", "#3d8f5f", "#8a5aa8", "#8c8c8c", "#b8306a", "#a08400", "#4fa3a3")
EXPLANATION = (
    "Lines: median of single calls; bands: 10th to 90th percentile. Above: how many times the speed of the best other one."
)
PANELS_ABREAST = 3
FEWEST_SIZES = 3


def draw(rows: list[dict[str, str]], folder: Path) -> list[Path]:
    """Draws each operation of these lines of a record, as PNG and SVG; returns the files."""
    series = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["series"] and row["ratio"]:
            # Of several runs in a record, the last one counts.
            key = (row["device"], row["operation"]), row["series"]
            series[key[0]][key[1]][row["backend"], int(row["size"])] = row
    folder.mkdir(parents=True, exist_ok=True)
    devices = {device for device, _ in series}
    files = []
    for (device, operation), panels in series.items():
        panels = {name: panel for name, panel in panels.items() if len({size for _, size in panel}) >= FEWEST_SIZES}
        if panels:
            name = operation.replace(" ", "_")
            if len(devices) > 1:
                name += "_" + "".join(letter if letter.isalnum() else "_" for letter in device).lower()
            files += figure(operation, panels, folder / name)
    return files


def figure(operation: str, panels, path: Path) -> list[Path]:
    abreast = min(len(panels), PANELS_ABREAST)
    down = -(-len(panels) // abreast)
    size = (1.2 + 4.6 * abreast, 1.5 + 3.4 * down)
    fig, axes = plt.subplots(down, abreast, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    backends = list(dict.fromkeys(backend for panel in panels.values() for backend, _ in panel))
    handles = {}
    for axis, (name, panel) in zip(axes.flat, panels.items()):
        handles |= draw_panel(axis, name, panel, backends, operation.startswith("attention"))
    any_row = next(iter(next(iter(panels.values())).values()))
    threads = f", {any_row['threads']} threads on either side" if any_row["threads"] else ""
    where = f"{any_row['device']}{threads}, {any_row['date'][:10]}"
    title = operation.replace("_", " ").replace("rms", "RMS")
    if not title.endswith("ward"):
        title += " forward"
    fig.suptitle(f"{title[0].upper()}{title[1:]}, warpfold {any_row['warpfold']} beside PyTorch {any_row['pytorch']}\n{where}")
    # The legend is below: panels have lines in every corner.
    legend = fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    legend.set_title(textwrap.fill(EXPLANATION, int(14 * size[0])), prop={"size": 8})
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        fig.savefig(file, dpi=150)
    plt.close(fig)
    return files


def draw_panel(axis, name: str, panel, backends: list[str], is_attention: bool):
    """Draws one series; returns its lines by their names."""
    lines, sizes = {}, sorted({size for _, size in panel})
    unit = next(iter(panel.values()))["unit"]
    best = {size: min(rows_at(panel, size), key=lambda row: float(row["ratio"])) for size in sizes}
    for backend in backends:
        points = [panel[backend, size] for size in sizes if (backend, size) in panel]
        if points:
            lines[label_of(backend)] = draw_line(axis, points, "pytorch", RIVALS[backends.index(backend) % len(RIVALS)], "s")
    lines = {"warpfold": draw_line(axis, list(best.values()), "warpfold", WARPFOLD, "o")} | lines
    axis.set_title(name, fontsize=10)
    axis.set_xscale("log", base=2)
    # The ratios of the first and the last size need some room beside them.
    axis.margins(x=0.09)
    axis.xaxis.set_major_locator(FixedLocator(sizes))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.0f}"))
    axis.set_xlabel("sequence length (tokens)" if is_attention else "columns of a row")
    axis.set_ylabel(f"rate ({unit})")
    # Room for the ratios, which stand in a row above all lines.
    axis.set_ylim(0, axis.get_ylim()[1] * 1.1)
    for size, row in best.items():
        place = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "top"}
        axis.annotate(f"{float(row['ratio']):.2f}×", (size, 0.985), **place, fontsize=8, color=WARPFOLD)
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return lines


def label_of(backend: str) -> str:
    if "_" in backend or backend in ("flashinfer", "quack"):
        return backend
    of_rows = {"eager": "PyTorch", "eager out": "PyTorch, into given memory"}
    return of_rows.get(backend) or f"PyTorch, {backend}"


def rows_at(panel, size: int):
    return [row for (_, of_row), row in panel.items() if of_row == size]


def draw_line(axis, rows: list[dict[str, str]], side: str, colour: str, marker: str):
    sizes = [int(row["size"]) for row in rows]
    # A call's work, in the unit of the rate times milliseconds.
    work = [float(row[f"{side}_rate"]) * float(row[f"{side}_ms"]) for row in rows]
    rates = lambda which: [amount / float(row[f"{side}{which}_ms"]) for amount, row in zip(work, rows)]
    axis.fill_between(sizes, rates("_p90"), rates("_p10"), color=colour, alpha=0.18, linewidth=0)
    return axis.plot(sizes, rates(""), color=colour, marker=marker, markersize=4.5, linewidth=1.8)[0]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], newline="") as file:
        for drawn in draw(list(csv.DictReader(line for line in file if not line.startswith("#"))), Path(sys.argv[2])):
            print(drawn)
