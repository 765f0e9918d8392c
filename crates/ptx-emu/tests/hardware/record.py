"""Runs the probes on this machine's GPU and keeps what comes back: `python3 record.py [--device cuda:0] FOLDER`. Needs NumPy and an
NVIDIA driver. The exit code is 1 where products or boxes are not what the layouts say, or where something could not be recorded.

../hardware.rs draws the same operands and holds the emulator to the files. Each is the 32-bit results in order, little-endian.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import pathlib
import subprocess
import sys
import traceback

import numpy

import operands
from driver import Gpu, Unavailable

HERE = pathlib.Path(__file__).parent
# What is recorded, in this order.
KINDS = ["specials", "mantissas", "mma", "wgmma", "majors", "errors", "boxes"]
HOPPER_KINDS = ["wgmma", "majors", "boxes"]
CASES = 256  # products of each kind that are computed
KEPT = {"mma": range(0, 64), "wgmma": range(128, 144)}  # and those that are kept
VALUES = 1 << 12  # operands of the approximate instructions
FRACTIONS = 1 << 14  # operands along the fractions of each function
FUNCTIONS = ["ex2.approx.ftz.f32", "ex2.approx.f32", "lg2.approx.ftz.f32", "rcp.approx.ftz.f32", "rsqrt.approx.ftz.f32",
             "sqrt.approx.ftz.f32", "tanh.approx.f32"]
EXACT = [numpy.exp2, numpy.exp2, numpy.log2, numpy.reciprocal, lambda x: 1 / numpy.sqrt(x), numpy.sqrt, numpy.tanh]
# Signs and exponents over whose fractions the errors are looked for: function, first operand.
SCANS = [(0, 0xBF800000), (0, 0x3F800000), (0, 0xBD800000), (0, 0xC1800000), (2, 0x3F000000), (2, 0x3F800000), (2, 0x42000000),
         (3, 0x3F800000), (4, 0x3F800000), (4, 0x40000000), (5, 0x3F800000), (5, 0x40000000), (6, 0x3E000000), (6, 0x3F800000)]


class Recorder:
    def __init__(self, gpu: Gpu, folder: pathlib.Path):
        self.gpu, self.folder = gpu, folder
        # Results that are known beforehand and came out another way.
        self.num_unexpected = 0

    # Compiled where they are first needed: the kinds that do not need one are recorded even if it does not compile.
    @functools.cached_property
    def baseline(self):
        return self.gpu.module((HERE / "probe.ptx").read_text())

    @functools.cached_property
    def hopper(self):
        return self.gpu.module((HERE / "probe_sm90a.ptx").read_text())

    def keep(self, name: str, words: numpy.ndarray):
        # As soon as it is there: what comes later may fail.
        words.astype("<u4").tofile(self.folder / f"{name}.bin")
        print(f"recorded {name}: {words.size} words", flush=True)

    def run(self, module, kernel: str, blocks: int, threads: int, inputs, count: int) -> numpy.ndarray:
        """A kernel's words, of inputs that are arrays."""
        addresses = [self.gpu.upload(array) for array in inputs]
        out = self.gpu.upload(numpy.full(count, 0xCDCDCDCD, dtype="<u4"))
        self.gpu.launch(module, kernel, blocks, threads, *addresses, out)
        words = self.gpu.download(out, count)
        self.gpu.free(*addresses, out)
        return words

    def functions(self, x: numpy.ndarray) -> numpy.ndarray:
        """All functions of these operands, one function after the other."""
        return self.run(self.baseline, "specials", x.size // 256, 256, [x], len(FUNCTIONS) * x.size)

    def specials(self):
        self.keep("specials", self.functions(operands.specials(VALUES)))

    def mma(self):
        self.products("mma", self.baseline, 32)

    def wgmma(self):
        self.products("wgmma", self.hopper, 128)

    def products(self, instruction: str, module, threads: int):
        for name, (exponent_bits, fraction_bits) in operands.FORMATS.items():
            a = operands.pairs(operands.floats(2, CASES * threads * 8, exponent_bits, fraction_bits, threads * 8))
            b = operands.pairs(operands.floats(3, CASES * 128, exponent_bits, fraction_bits, 128))
            c = operands.floats(4, CASES * threads * 4, 8, 23, threads * 4)
            d = self.run(module, f"{instruction}_{name}", CASES, threads, [a, b, c], CASES * threads * 4)
            kept = KEPT[instruction]
            self.keep(f"{instruction}_{name}", d[kept.start * threads * 4 : kept.stop * threads * 4])

    def mantissas(self):
        fractions = operands.fractions(FRACTIONS)
        parts = []
        for function, first in operands.MANTISSAS:
            x = numpy.uint32(first) + fractions
            parts.append(self.functions(x)[function * FRACTIONS : (function + 1) * FRACTIONS])
        self.keep("mantissas", numpy.concatenate(parts))

    def majors(self):
        for dtype, numbers in operands.MAJORS.items():
            cases = [operands.MajorsCase(dtype, number) for number in numbers]
            images = numpy.concatenate([case.image for case in cases])
            words = numpy.array([case.words() for case in cases], dtype="<u8")
            d = self.run(self.hopper, f"majors_{dtype}", len(cases), 128, [images, words], len(cases) * 2048)
            self.keep(f"majors_{dtype}", d)
            wrong = [case for case, found in zip(cases, d.reshape(len(cases), -1)) if (found != case.expected()).any()]
            for case in wrong:
                print(f"unexpected: the product of {dtype}, swizzle {case.swizzle}, majors {case.majors}")
            self.num_unexpected += len(wrong)
            print(f"{len(cases) - len(wrong)} of {len(cases)} products of {dtype} are as the layouts say")

    def boxes(self):
        tensor = operands.mixed(7, operands.TENSOR_WORDS).astype("<u4")
        address, parts, unexpected, count = self.gpu.upload(tensor), [], 0, 0
        for boxes in operands.BOXES:
            corners = boxes.corners()
            count += len(corners)
            encoded = self.gpu.tensor_map(boxes.element, address, boxes.dims, boxes.strides_bytes, boxes.box_dims, boxes.swizzle,
                                          boxes.fills_with_nan)
            of_corners = self.gpu.upload(numpy.array(corners, dtype="<i4"))
            out = self.gpu.allocate(len(corners) * boxes.bytes)
            for number, corner in enumerate(corners):
                # One at a time, so that a fault is known by its box.
                addresses = of_corners + 16 * number, out + boxes.bytes * number
                try:
                    self.gpu.launch(self.hopper, f"boxes_{len(boxes.dims)}d", 1, 128, encoded, *addresses, boxes.bytes)
                except RuntimeError as error:
                    raise RuntimeError(f"the box at {corner} of {boxes}: {error}") from error
            found = self.gpu.download(out, len(corners) * boxes.bytes // 4)
            parts.append(found)
            self.gpu.free(of_corners, out)
            # Boxes far outside hold nothing but what the outside reads as.
            outside = found.tobytes()[-boxes.size :]
            for corner, box in zip(corners, found.reshape(len(corners), -1)):
                if box.tobytes() != boxes.expected(tensor.tobytes(), corner, outside):
                    unexpected += 1
                    print(f"unexpected: the box at {corner} of {boxes}")
            print(f"{boxes.element}, {'NaN' if boxes.fills_with_nan else 'zeros'} asked for: the outside reads as {outside[::-1].hex()}")
        self.keep("boxes", numpy.concatenate(parts))
        self.num_unexpected += unexpected
        print(f"{count - unexpected} of {count} boxes are as the map says")

    def errors(self):
        """The largest error of functions over all fractions, in units in the last place of the result."""
        lines = []
        for function, first in SCANS:
            worst, where, rounded, total = 0.0, 0, 0, 0
            for part in range(8):
                x = numpy.uint32(first) + numpy.arange(part << 20, part + 1 << 20, dtype=numpy.uint32)
                found = self.functions(x)[function * x.size : (function + 1) * x.size].view("<f4").astype(float)
                with numpy.errstate(all="ignore"):
                    exact = EXACT[function](x.view("<f4").astype(float))
                    near = exact.astype("<f4").astype(float)
                    error = numpy.abs(found - exact) / numpy.ldexp(1.0, numpy.frexp(exact)[1] - 24)
                is_normal = numpy.isfinite(near) & (numpy.abs(near) >= 2.0**-126)
                error = numpy.where(is_normal, numpy.where(numpy.isfinite(found), error, numpy.inf), 0)
                rounded += int((is_normal & (found == near)).sum())
                total += int(is_normal.sum())
                if error.max() > worst:
                    worst, where = float(error.max()), int(x[error.argmax()])
            value = float(numpy.array(first, dtype="<u4").view("<f4"))
            share = 100 * rounded / max(total, 1)
            lines.append(f"{FUNCTIONS[function]:22} from {value:8g} on: at most {worst:.4g} ulp, at {where:#010x}; {share:.1f} % are rounded correctly")
            print(lines[-1], flush=True)
        (self.folder / "errors.txt").write_text("\n".join(lines) + "\n")

    def describe(self):
        date, commit = datetime.date.today(), os.environ.get("WARPFOLD_COMMIT", "")
        text = f"{self.gpu.name}, compute capability {'.'.join(map(str, self.gpu.capability))}, driver for CUDA {self.gpu.driver_cuda}, "
        text += f"recorded on {date} by record.py{f' of {commit}' if commit else ''}."
        (self.folder / "README.md").write_text(f"# What a GPU computed\n\n{text}\n")
        print(text)

    def record(self, kind: str):
        if kind in HOPPER_KINDS and self.gpu.capability != (9, 0):
            print(f"skipped: {kind}, which only compute capability 9.0 has")
        else:
            getattr(self, kind)()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", metavar="cuda:N", default="cuda:0")
    parser.add_argument("--only", metavar="KIND", choices=KINDS, action="append", help=f"any of {', '.join(KINDS)}")
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path)
    arguments = parser.parse_args()
    ordinal = arguments.device.removeprefix("cuda:")
    if not ordinal.isdecimal():
        parser.error(f"--device is cuda:N, not {arguments.device}")
    try:
        gpu = Gpu(int(ordinal))
    except Unavailable as reason:
        print(f"skipped: nothing can be recorded here: {reason}")
        return 0
    arguments.folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(gpu, arguments.folder)
    recorder.describe()
    kinds = [kind for kind in KINDS if kind in (arguments.only or KINDS)]
    for number, kind in enumerate(kinds, 1):
        try:
            recorder.record(kind)
        except Exception as error:
            traceback.print_exc()
            # After a fault of the GPU a process can do nothing more with it.
            if number < len(kinds):
                rest = [f"--only={other}" for other in kinds[number:]]
                subprocess.run([sys.executable, __file__, "--device", arguments.device, *rest, arguments.folder], check=False)
            print(f"failed: {kind}: {error}")
            return 1
    return 1 if recorder.num_unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
