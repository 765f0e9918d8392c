"""PyTorch's kernels on the problems of `warpfold bench`, timed the same way: CUDA events around single calls, all queued before
the first is waited for, over inputs that rotate so that none finds its own in the L2 cache; the median.

    python3 benches/pytorch.py [--csv FILE] [--budget-ms 100]

One line of CSV each: operation, problem, median, p10 and p90 in ms, rate, unit, back end. FLOP count as warpfold counts:
2 * 2 * head_dim for each visible pair of query and key forward, 2.5 times as many backward; bytes as little as must move.
"""

import argparse
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

TOKENS, COLUMNS = 16384, 2048
ROTATION_BYTES = 150 << 20


def times_ms(call, budget_ms):
    """The times of single calls."""

    def measure(count):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for index in range(count):
            call(index)
            events[index + 1].record()
        torch.cuda.synchronize()
        return [a.elapsed_time(b) for a, b in zip(events, events[1:])]

    expected = max(measure(5)[-1], 1e-3)
    return sorted(measure(min(max(int(budget_ms / expected), 20), 2000)))


class Report:
    def __init__(self, path):
        self.file = open(path, "w") if path else None
        self.line("operation,problem,median_ms,p10_ms,p90_ms,rate,unit,backend")

    def line(self, text):
        print(text, flush=True)
        if self.file:
            print(text, file=self.file, flush=True)

    def times(self, operation, problem, times, work, unit, backend):
        at = lambda share: times[round((len(times) - 1) * share)]
        figures = ",".join(f"{at(share):.5f}" for share in (0.5, 0.1, 0.9))
        self.line(f"{operation},{problem},{figures},{work / at(0.5):.1f},{unit},{backend}")


def attention(report, budget_ms):
    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    for head_dim in (128, 64, 256):
        for causal in (False, True):
            for length in (8192, 512, 1024, 2048, 4096, 16384):
                batch, heads = TOKENS // length, COLUMNS // head_dim
                mask = "causal" if causal else "dense"
                problem = f"b{batch} h{heads}/{heads} s{length}/{length} d{head_dim} {mask}"
                pairs = batch * heads * (length * (length + 1) // 2 if causal else length * length)
                bytes_of_set = 4 * 2 * TOKENS * COLUMNS
                sets = []
                for _ in range(max(2, -(-ROTATION_BYTES // bytes_of_set))):
                    make = lambda: (torch.randn(batch, heads, length, head_dim, device="cuda", dtype=torch.bfloat16) * 0.87 + 0.1)
                    sets.append([make().requires_grad_() for _ in range(3)])
                d_out = make()
                for name, backend in backends.items():
                    call = torch.nn.functional.scaled_dot_product_attention
                    try:
                        with sdpa_kernel(backend), torch.no_grad():
                            times = times_ms(lambda index: call(*sets[index % len(sets)], is_causal=causal), budget_ms)
                        report.times("attention forward", problem, times, 4e-9 * head_dim * pairs, "TFLOP/s", name)
                    except RuntimeError as error:
                        report.line(f"attention forward,{problem},failed: {str(error).splitlines()[0]},{name}")
                    try:
                        with sdpa_kernel(backend):
                            outs = [call(*inputs, is_causal=causal) for inputs in sets]
                            backward = lambda index: torch.autograd.grad(
                                outs[index % len(sets)], sets[index % len(sets)], d_out, retain_graph=True)
                            times = times_ms(backward, budget_ms)
                        report.times("attention backward", problem, times, 10e-9 * head_dim * pairs, "TFLOP/s", name)
                        del outs
                    except RuntimeError as error:
                        report.line(f"attention backward,{problem},failed: {str(error).splitlines()[0]},{name}")


def rows(report, budget_ms):
    functional = torch.nn.functional
    for name in ("softmax", "layer_norm", "rms_norm"):
        for dtype, shown, size in ((torch.bfloat16, "bf16", 2), (torch.float32, "f32", 4)):
            for columns in (1024, 4096, 16384):
                count = (64 << 20) // columns
                x = torch.randn(count, columns, device="cuda", dtype=dtype, requires_grad=True)
                weight = torch.randn(columns, device="cuda", dtype=dtype, requires_grad=True)
                bias = torch.randn(columns, device="cuda", dtype=dtype, requires_grad=True)
                d_y = torch.randn_like(x)
                call = {
                    "softmax": lambda: functional.softmax(x, -1),
                    "layer_norm": lambda: functional.layer_norm(x, (columns,), weight, bias),
                    "rms_norm": lambda: functional.rms_norm(x, (columns,), weight),
                }[name]
                inputs = {"softmax": [x], "layer_norm": [x, weight, bias], "rms_norm": [x, weight]}[name]
                problem, bytes_ = f"{shown} {count}x{columns}", count * columns * size
                with torch.no_grad():
                    times = times_ms(lambda _: call(), budget_ms)
                report.times(f"{name} forward", problem, times, 2e-6 * bytes_, "GB/s", "eager")
                y = call()
                times = times_ms(lambda _: torch.autograd.grad(y, inputs, d_y, retain_graph=True), budget_ms)
                report.times(f"{name} backward", problem, times, 3e-6 * bytes_, "GB/s", "eager")


def ceilings(report, budget_ms):
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    report.times("matmul", "bf16 8192", times_ms(lambda _: a @ b, budget_ms), 2e-9 * 8192**3, "TFLOP/s", "cublas")
    x = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    y = torch.empty_like(x)
    report.times("copy", "1 GiB", times_ms(lambda _: y.copy_(x), budget_ms), 2e-6 * x.numel(), "GB/s", "copy_")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv")
    parser.add_argument("--budget-ms", type=float, default=100.0)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no GPU")
        return
    print(f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}", file=sys.stderr)
    report = Report(arguments.csv)
    ceilings(report, arguments.budget_ms)
    attention(report, arguments.budget_ms)
    rows(report, arguments.budget_ms)


if __name__ == "__main__":
    main()
