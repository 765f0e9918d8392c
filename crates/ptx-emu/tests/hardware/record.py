"""Runs probe.ptx on this machine's GPU and keeps what comes back: `python3 record.py FOLDER`. Needs CuPy.

../hardware.rs draws the same operands and holds the emulator to the files. Each is the 32-bit results in order, little-endian.
"""

import pathlib
import sys

import cupy
import numpy

CASES = 256  # products of each kind
VALUES = 1 << 16  # operands of the approximate instructions
FUNCTIONS = ["ex2.approx.ftz.f32", "ex2.approx.f32", "lg2.approx.ftz.f32", "rcp.approx.ftz.f32", "rsqrt.approx.ftz.f32",
             "sqrt.approx.ftz.f32", "tanh.approx.f32"]


def mixed(seed, count):
    """Numbers without a pattern: the finalizer of MurmurHash3 on (seed << 24) + 0, 1, 2, ..."""
    x = numpy.arange(count, dtype=numpy.uint32) + numpy.uint32(seed << 24)
    x ^= x >> 16
    x *= numpy.uint32(0x85EBCA6B)
    x ^= x >> 13
    x *= numpy.uint32(0xC2B2AE35)
    return x ^ x >> 16


def floats(seed, count, exponent_bits, fraction_bits, per_case):
    """Floats of a type. By the number of their case modulo 4, their exponents differ by 0, up to 5 or up to 19, or the bits are
    any bits."""
    x = mixed(seed, count)
    kind = numpy.arange(count, dtype=numpy.uint32) // numpy.uint32(per_case) % numpy.uint32(4)
    spread = numpy.array([1, 6, 20, 1], dtype=numpy.uint32)[kind]
    bias = numpy.uint32((1 << exponent_bits - 1) - 1)
    # The low bits are the fraction; those above choose the exponent.
    exponent = bias - spread // numpy.uint32(2) + (x >> numpy.uint32(24) & numpy.uint32(127)) % spread
    fraction = x & numpy.uint32((1 << fraction_bits) - 1)
    sign = x >> numpy.uint32(31) << numpy.uint32(exponent_bits + fraction_bits)
    bits = sign | exponent << numpy.uint32(fraction_bits) | fraction
    width = 1 + exponent_bits + fraction_bits
    any_bits = x >> numpy.uint32(32 - width)
    return numpy.where(kind == 3, any_bits, bits).astype(numpy.uint32)


def pairs(values):
    """Two 16-bit values a word."""
    return values[0::2] | values[1::2] << numpy.uint32(16)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    module = cupy.RawModule(path=str(pathlib.Path(__file__).with_name("probe.ptx")))

    x = mixed(1, VALUES)
    near = x & numpy.uint32(0x807FFFFF) | (numpy.uint32(107) + (x >> numpy.uint32(23) & numpy.uint32(255)) % numpy.uint32(28)) << numpy.uint32(23)
    x = numpy.where(numpy.arange(VALUES) % 2 == 1, near, x).astype(numpy.uint32)
    out = cupy.zeros(len(FUNCTIONS) * VALUES, dtype=cupy.uint32)
    module.get_function("specials")((VALUES // 256,), (256,), (cupy.asarray(x), out))
    out.get().astype("<u4").tofile(folder / "specials.bin")

    for name, exponent_bits, fraction_bits in [("f16", 5, 10), ("bf16", 8, 7)]:
        for instruction, threads, words_b in [("mma", 32, 64), ("wgmma", 128, 64)]:
            a = pairs(floats(2, CASES * threads * 8, exponent_bits, fraction_bits, threads * 8))
            b = pairs(floats(3, CASES * words_b * 2, exponent_bits, fraction_bits, words_b * 2))
            c = floats(4, CASES * threads * 4, 8, 23, threads * 4)
            d = cupy.zeros(CASES * threads * 4, dtype=cupy.uint32)
            module.get_function(f"{instruction}_{name}")((CASES,), (threads,), tuple(map(cupy.asarray, (a, b, c))) + (d,))
            d.get().astype("<u4").tofile(folder / f"{instruction}_{name}.bin")
    print("recorded", sorted(path.name for path in folder.iterdir()))


def errors():
    """The largest error of each function, over all floats, in units in the last place of the result."""
    source = r"""
    #define SCAN(NAME, ASM, EXACT)                                                                        \
      extern "C" __global__ void NAME(unsigned long long first, float* worst, unsigned* where) {         \
        unsigned bits = first + blockIdx.x * blockDim.x + threadIdx.x;                                    \
        float x = __uint_as_float(bits), y;                                                               \
        asm(ASM : "=f"(y) : "f"(x));                                                                      \
        double exact = EXACT((double)x);                                                                  \
        float near = (float)exact;                                                                        \
        float error = 0;                                                                                  \
        if (isfinite(x) && isfinite(near) && fabs(exact) >= 1.1754943508222875e-38 && fabsf(x) >= 1.17549435e-38f) { \
          int e; frexp(exact, &e);                                                                        \
          error = isfinite(y) ? (float)(fabs((double)y - exact) / ldexp(1.0, e - 24)) : 1e30f;            \
        }                                                                                                 \
        if (error > *worst) { atomicMax((int*)worst, __float_as_int(error));                              \
          if (__float_as_int(error) == *(volatile int*)worst) *where = bits; }                            \
      }
    __device__ double recip(double x) { return 1 / x; }
    __device__ double rroot(double x) { return 1 / sqrt(x); }
    SCAN(ex2, "ex2.approx.ftz.f32 %0, %1;", exp2)
    SCAN(lg2, "lg2.approx.ftz.f32 %0, %1;", log2)
    SCAN(rcp, "rcp.approx.ftz.f32 %0, %1;", recip)
    SCAN(rsqrt_, "rsqrt.approx.ftz.f32 %0, %1;", rroot)
    SCAN(tanh_, "tanh.approx.f32 %0, %1;", tanh)
    """
    module = cupy.RawModule(code=source, options=("-arch=sm_90",), backend="nvrtc")
    for name in ["ex2", "lg2", "rcp", "rsqrt_", "tanh_"]:
        worst, where = cupy.zeros(1, dtype=cupy.float32), cupy.zeros(1, dtype=cupy.uint32)
        for part in range(256):
            module.get_function(name)((1 << 14,), (1 << 10,), (numpy.uint64(part << 24), worst, where))
        print(f"largest error of {name}: {float(worst[0]):.4f} ulp, about at {int(where[0]):#010x}")


if __name__ == "__main__":
    main()
    errors()
