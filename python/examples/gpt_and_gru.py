"""A small GPT on warpfold's attention and layer norm, beside a GRU of as many parameters.

Both read the same batches of the same novel, character by character, for as many steps. What is compared is the loss against
steps, and against the distance of what must be remembered: a string of random letters is planted in the text, and again some
characters later. A model that can look back that far knows the second one from its first letters on.

    pip install target/wheels/warpfold-*.whl torch matplotlib       (the wheel: cargo xtask wheel)
    python python/examples/gpt_and_gru.py

What came out, and where the novel is from: README.md beside this file.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import warpfold.torch

PYTORCH = SimpleNamespace(scaled_dot_product_attention=F.scaled_dot_product_attention, LayerNorm=nn.LayerNorm)

CONTEXT = 256  # characters that a model sees
BATCH = 8  # pieces of the novel in a step, half of them with planted strings
HELD_OUT = 0.1  # the end of the novel, which no step sees
STRING = 8  # letters of a planted string
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # that it is drawn from: capitals, which hardly follow each other in a novel
GIVEN = 2  # letters of a repetition that do not count: they tell that it is one, and of what
DISTANCES = [8, 16, 32, 64, 128, 224]  # of the probe, in characters
CHANCE = math.log(len(LETTERS))  # nats per letter of a string that nobody can know

LAYERS, WIDTH, HEADS = 3, 128, 4  # of the GPT
GRU_LAYERS = 2  # their width follows from the GPT's number of parameters
LEARNING_RATES = {"GPT": 3e-3, "GRU": 8e-3}  # from short trials
COLOURS = {"GPT": "tab:blue", "GRU": "tab:orange"}


def main():
    arguments = parse_arguments()
    ops = warpfold.torch if arguments.attention == "warpfold" else PYTORCH  # The one line.
    text = Text(Path(__file__).with_name("persuasion.txt"))
    num_symbols = len(text.alphabet)
    check(text, num_symbols, arguments)
    torch.manual_seed(arguments.seed)
    gpt = GPT(ops, num_symbols)
    models = {"GPT": gpt, "GRU": GRU(ops, num_symbols, gru_width(num_symbols, num_parameters(gpt)))}
    results = {}
    for name, model in models.items():
        result = train(name, model.to(arguments.device), text, arguments.steps, arguments.seed)
        rows = measure(model, text.held_out_rows(128))
        result.held_out, result.by_position = rows.mean(), rows.mean(axis=0)
        result.by_distance = [repeated(model, text, distance, 128) for distance in DISTANCES]
        result.sample = sample(model, text, arguments.seed)
        result.num_parameters = num_parameters(model)
        results[name] = result
    report(results)
    plot(results, arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="steps of each model (600)")
    parser.add_argument("--seed", type=int, default=1, help="of the parameters and of the batches (1)")
    parser.add_argument("--attention", choices=["warpfold", "pytorch"], default="warpfold")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--out", type=Path, default=Path("target/gpt"), help="folder of the figure (target/gpt)")
    return parser.parse_args()


# The novel -------------------------------------------------------------------------------------------------------------------


class Text:
    """The novel as numbers, one for each character that is in it."""

    def __init__(self, path: Path):
        text = path.read_text(encoding="ascii")
        self.alphabet = sorted(set(text + LETTERS))
        self.letters = self.encode(LETTERS)
        numbers = self.encode(text)
        end = int(len(numbers) * (1 - HELD_OUT))
        self.train, self.held_out = numbers[:end], numbers[end:]

    def encode(self, text: str) -> np.ndarray:
        number = {character: i for i, character in enumerate(self.alphabet)}
        return np.array([number[character] for character in text])

    def batch(self, seed: int, step: int) -> np.ndarray:
        """[BATCH, CONTEXT + 1] from random places; rows of the second half have planted strings."""
        random = np.random.default_rng([seed, step])
        starts = random.integers(len(self.train) - CONTEXT, size=BATCH)
        rows = self.train[starts[:, None] + np.arange(CONTEXT + 1)]
        for row in rows[BATCH // 2 :]:
            string = random.choice(self.letters, STRING)
            # Even in its square root: short distances have more repetitions in a row, and would have the others forgotten.
            distance = int(random.uniform(STRING**0.5, (CONTEXT - STRING) ** 0.5) ** 2)
            first = random.integers(min(distance, CONTEXT - STRING - distance) + 1)
            for start in range(first, CONTEXT + 2 - STRING, distance):
                row[start : start + STRING] = string
        return rows

    def held_out_rows(self, count: int) -> np.ndarray:
        """[count, CONTEXT + 1], evenly through the held-out part."""
        starts = np.linspace(0, len(self.held_out) - CONTEXT - 1, count).astype(int)
        return self.held_out[starts[:, None] + np.arange(CONTEXT + 1)]

    def probe(self, distance: int, count: int) -> np.ndarray:
        """Held-out rows that end with a string of random letters which was there ``distance`` characters before."""
        random = np.random.default_rng(distance)
        rows = self.held_out_rows(count)
        strings = random.choice(self.letters, (count, STRING))
        rows[:, -STRING - distance : CONTEXT + 1 - distance] = strings
        rows[:, -STRING:] = strings
        return rows


# Models ----------------------------------------------------------------------------------------------------------------------


def rotate(x: Tensor) -> Tensor:
    """Rotary positions in half of the dimensions of x [batch, heads, len, head_dim]; the others compare contents alone."""
    a, b, rest = x.split([x.shape[-1] // 4, x.shape[-1] // 4, x.shape[-1] // 2], dim=-1)
    frequencies = 100.0 ** -torch.linspace(0, 1, a.shape[-1], device=x.device)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


class Attention(nn.Module):
    """Of causal heads; ``ops`` computes it, on warpfold or on PyTorch."""

    def __init__(self, ops):
        super().__init__()
        self.ops = ops
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = nn.Parameter(torch.zeros(HEADS, 1, 1))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        # Smeared keys (Olsson et al. 2022): with those of the character before, so that a head can ask what followed what.
        k = torch.lerp(k, F.pad(k, (0, 0, 1, -1)), self.mix.sigmoid())
        y = self.ops.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(-2))


class GPT(nn.Module):
    """Embedding; per layer attention and two linear layers, each behind a norm and around a residual; norm and logits."""

    def __init__(self, ops, num_symbols: int):
        super().__init__()
        self.embedding = nn.Embedding(num_symbols, WIDTH)
        self.blocks = nn.ModuleList()
        for _ in range(LAYERS):
            mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            for block in Attention(ops), mlp:
                self.blocks.append(nn.Sequential(ops.LayerNorm(WIDTH), block))
        self.norm = ops.LayerNorm(WIDTH)
        self.logits = nn.Linear(WIDTH, num_symbols)
        for name, parameter in self.named_parameters():
            if name.endswith("weight") and parameter.dim() == 2 and name != "embedding.weight":
                # A block begins by passing its input on: its last weights are zeros.
                nn.init.normal_(parameter, std=0.0 if name.endswith(("out.weight", "1.2.weight")) else WIDTH**-0.5)

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.embedding(numbers)
        for block in self.blocks:
            x = x + block(x)
        return self.logits(self.norm(x))


class GRU(nn.Module):
    """Embedding; GRU layers, each behind a norm and around a residual; norm and logits."""

    def __init__(self, ops, num_symbols: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(num_symbols, width)
        self.norms = nn.ModuleList(ops.LayerNorm(width) for _ in range(GRU_LAYERS))
        self.layers = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(GRU_LAYERS))
        self.norm = ops.LayerNorm(width)
        self.logits = nn.Linear(width, num_symbols)

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.embedding(numbers)
        for norm, layer in zip(self.norms, self.layers):
            x = x + layer(norm(x))[0]
        return self.logits(self.norm(x))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def gru_width(num_symbols: int, wanted: int) -> int:
    """The width of the GRU whose number of parameters is closest to the wanted one."""
    with torch.device("meta"):
        return min(range(16, 1024), key=lambda width: abs(num_parameters(GRU(PYTORCH, num_symbols, width)) - wanted))


def losses(model: nn.Module, rows: np.ndarray) -> Tensor:
    """[rows, CONTEXT]: of each character from those before it, in nats."""
    numbers = torch.from_numpy(rows).to(model.logits.weight.device)
    return F.cross_entropy(model(numbers[:, :-1]).transpose(1, 2), numbers[:, 1:], reduction="none")


# Training and measuring ------------------------------------------------------------------------------------------------------


def check(text: Text, num_symbols: int, arguments: argparse.Namespace):
    """Asserts the same loss and gradients of the GPT on warpfold and on PyTorch, and prints the time of a step on each."""
    rows = text.batch(arguments.seed, 0)
    torch.manual_seed(arguments.seed)
    models = {"PyTorch": GPT(PYTORCH, num_symbols), "warpfold": GPT(warpfold.torch, num_symbols)}
    for parameter in models["PyTorch"].parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)  # With zeros at their ends, blocks would have no gradients to compare.
    models["warpfold"].load_state_dict(models["PyTorch"].state_dict())
    loss, gradients, times = {}, {}, {name: [] for name in models}
    for _ in range(6):
        for name, model in models.items():
            model.to(arguments.device).zero_grad()
            start = time.perf_counter()
            mean = losses(model, rows).mean()
            mean.backward()
            loss[name] = mean.item()
            gradients[name] = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
            times[name].append(time.perf_counter() - start)
    for name in models:
        print(f"GPT on {name:8}: loss {loss[name]:.7f}, {np.median(times[name][1:]):.3f} s forward and backward")
    difference = abs(loss["PyTorch"] - loss["warpfold"])
    relative = ((gradients["PyTorch"] - gradients["warpfold"]).norm() / gradients["PyTorch"].norm()).item()
    print(f"Differences: loss {difference:.1e} nats, gradients {relative:.1e} of their norm\n", flush=True)
    assert difference < 1e-5 and relative < 1e-4


def train(name: str, model: nn.Module, text: Text, steps: int, seed: int) -> SimpleNamespace:
    """AdamW, with a warm-up and then a cosine to a tenth of the learning rate; returns the curves and the time of the steps."""
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    warm_up = every = max(steps // 20, 1)
    begin, seconds, result = time.perf_counter(), 0.0, SimpleNamespace(train=[], measured_steps=[], measured=[])
    for step in range(steps):
        start = time.perf_counter()
        cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm_up) / steps))
        optimiser.param_groups[0]["lr"] = LEARNING_RATES[name] * min((step + 1) / warm_up, cosine)
        batch = losses(model, text.batch(seed, step))
        optimiser.zero_grad()
        batch.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        result.train.append(batch[: BATCH // 2].mean().item())  # Of the rows that are the novel's alone.
        seconds += time.perf_counter() - start
        line = f"train {np.mean(result.train[-every:]):.3f}"
        is_measured = (step + 1) % every == 0 or step + 1 == steps
        if is_measured:
            result.measured_steps.append(step + 1)
            result.measured.append(measure(model, text.held_out_rows(32)).mean())
            line += f"  held out {result.measured[-1]:.3f}  repeated {repeated(model, text, 64, 32):.3f}"
        left = (time.perf_counter() - begin) / (step + 1) * (steps - step - 1)
        tell(f"{name} step {step + 1:4} of {steps}  {left:4.0f} s left  {line}", is_measured)
    result.seconds_per_step = seconds / steps
    return result


def tell(line: str, is_measured: bool):
    """On a terminal a line that the next one overwrites; elsewhere, and where something was measured, one that stays."""
    if sys.stdout.isatty():
        print(f"\r{line}\x1b[K", end="\n" if is_measured else "", flush=True)
    elif is_measured:
        print(line, flush=True)


@torch.no_grad()
def measure(model: nn.Module, rows: np.ndarray) -> np.ndarray:
    return torch.cat([losses(model, part).cpu() for part in np.split(rows, len(rows) // 32)]).numpy()


def repeated(model: nn.Module, text: Text, distance: int, count: int) -> float:
    """The mean loss on letters of a random string that was there before, but for the first GIVEN."""
    return measure(model, text.probe(distance, count))[:, GIVEN - STRING :].mean().item()


@torch.no_grad()
def sample(model: nn.Module, text: Text, seed: int, length: int = 240, temperature: float = 0.7) -> str:
    numbers = torch.from_numpy(text.held_out[:64])
    random = torch.Generator().manual_seed(seed)
    for _ in range(length):
        logits = model(numbers[None, -CONTEXT:].to(model.logits.weight.device))[0, -1].cpu()
        numbers = torch.cat([numbers, torch.multinomial((logits / temperature).softmax(-1), 1, generator=random)])
    return "".join(text.alphabet[i] for i in numbers[64:])


# Results ---------------------------------------------------------------------------------------------------------------------


def report(results: dict[str, SimpleNamespace]):
    print("\nLosses in nats per character:")
    print("model  parameters  s/step  train  held out | repeated after " + "".join(f"{d:7}" for d in DISTANCES))
    for name, r in results.items():
        row = f"{name:5}  {r.num_parameters:10,}  {r.seconds_per_step:6.3f}  {np.mean(r.train[-50:]):5.3f}  {r.held_out:8.3f}"
        print(f"{row} | {'':14} " + "".join(f"{loss:7.3f}" for loss in r.by_distance))
    print(f"A letter that nobody can know: {CHANCE:.3f}")
    for name, r in results.items():
        print(f"\n{name} writes:\n{r.sample}")


def plot(results: dict[str, SimpleNamespace], folder: Path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    steps, distance, position = figure.subplots(1, 3)
    models = " and ".join(f"a {name} of {r.num_parameters:,}" for name, r in results.items())
    figure.suptitle(f"Jane Austen's Persuasion, learnt by characters: {models} parameters, on the same batches")
    edges = np.unique(np.geomspace(1, CONTEXT + 1, 20).astype(int))
    for name, r in results.items():
        colour, width = COLOURS[name], max(len(r.train) // 40, 1)
        smooth = np.convolve(r.train, np.ones(width) / width, mode="valid")
        steps.plot(np.arange(width, len(r.train) + 1), smooth, color=colour, alpha=0.4, label=f"{name}, training")
        steps.plot(r.measured_steps, r.measured, color=colour, marker=".", label=f"{name}, held out")
        distance.plot(DISTANCES, r.by_distance, color=colour, marker="o", label=name)
        means = [r.by_position[a - 1 : b - 1].mean() for a, b in zip(edges, edges[1:])]
        position.plot(np.sqrt(edges[1:] * edges[:-1]), means, color=colour, marker=".", label=name)
    steps.set(title="The novel", xlabel="steps", ylabel="loss (nats per character)")
    distance.axhline(CHANCE, color="gray", linestyle="--", label=f"chance: ln {len(LETTERS)}")
    distance.set(title="Random letters that were there before", xlabel="how long before (characters)", xscale="log")
    distance.set(ylabel="loss on letters 3 to 8 (nats per character)", ylim=(0, None))
    distance.set_xticks(DISTANCES, DISTANCES)
    distance.minorticks_off()
    position.set(title="The novel, held out", xlabel="position in the context (characters)", ylabel=steps.get_ylabel())
    position.set_xscale("log", base=2)
    position.set_xticks([1, 4, 16, 64, 256], [1, 4, 16, 64, 256])
    for axes in steps, distance, position:
        axes.grid(alpha=0.3)
        axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    for kind in "png", "svg":
        figure.savefig(folder / f"gpt_and_gru.{kind}", dpi=110)
    print(f"\nFigure: {folder / 'gpt_and_gru.png'} and .svg")


if __name__ == "__main__":
    main()
