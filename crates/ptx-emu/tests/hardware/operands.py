"""What the kernels of the probes compute on. ../hardware.rs and the files beside it draw the same operands."""

from __future__ import annotations

import dataclasses

import numpy

FORMATS = {"f16": (5, 10), "bf16": (8, 7)}


def mixed(seed, count, first=0):
    """Numbers without a pattern: the finalizer of MurmurHash3 on (seed << 24) + first, first + 1, ..."""
    x = numpy.arange(first, first + count, dtype=numpy.uint32) + numpy.uint32(seed << 24)
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


def specials(count):
    """Operands of the approximate instructions: any bits, and every other one near 1."""
    x = mixed(1, count)
    near = x & numpy.uint32(0x807FFFFF) | (numpy.uint32(107) + (x >> numpy.uint32(23) & numpy.uint32(255)) % numpy.uint32(28)) << numpy.uint32(23)
    return numpy.where(numpy.arange(count) % 2 == 1, near, x).astype(numpy.uint32)


# Where a function is looked at along its fractions: its place among FUNCTIONS of record.py, and the sign and exponent of operands.
MANTISSAS = [(0, 0xBF800000), (3, 0x3F800000), (4, 0x3F800000), (4, 0x40000000)]


def fractions(count):
    """So many fractions over all of them, at no fixed distance."""
    step = numpy.uint32((1 << 23) // count)
    return numpy.arange(count, dtype=numpy.uint32) * step + mixed(8, count) % step


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an operand of wgmma, of rows (or columns) r and depth k, lies in shared memory: elements of 16 bits."""

    # 0, 32, 64 or 128 bytes.
    swizzle: int
    # Elements next to each other have the same k.
    mn_major: bool
    rows: int
    start: int

    @property
    def leading(self):
        if self.swizzle == 0:
            return 16 * self.rows if self.mn_major else 128
        return 16 * self.swizzle if self.mn_major else 16

    @property
    def stride(self):
        if self.swizzle == 0:
            return 128 if self.mn_major else 256
        return 8 * self.swizzle

    def places(self):
        """The byte offsets of all elements, [row, k]."""
        r, k = numpy.mgrid[0 : self.rows, 0:16]
        line, along = (k, r) if self.mn_major else (r, k)
        chunk, within = along // 8, along % 8 * 2
        if self.swizzle == 0:
            of_line, of_chunk = (self.leading, self.stride) if self.mn_major else (self.stride, self.leading)
            return self.start + 16 * (line % 8) + of_line * (line // 8) + of_chunk * chunk + within
        width = self.swizzle // 16
        at = self.swizzle * (line % 8) + self.stride * (line // 8) + 16 * (chunk % width) + self.leading * (chunk // width)
        # The swizzle exchanges chunks by the address bits three above theirs.
        return self.start + (at ^ at >> 3 & self.swizzle - 16) + within

    def descriptor(self):
        mode = {0: 0, 128: 1, 64: 2, 32: 3}[self.swizzle]
        return self.start >> 4 | self.leading >> 4 << 16 | self.stride >> 4 << 32 | mode << 62


SHARED_BYTES = 16384


class MajorsCase:
    """One product of two small matrices of integers, which every order of summation gives exactly."""

    def __init__(self, dtype: str, number: int):
        self.swizzle, self.majors = [0, 32, 64, 128][number // 4], number % 4
        self.layouts = Layout(self.swizzle, self.majors & 1 > 0, 64, 0), Layout(self.swizzle, self.majors & 2 > 0, 32, 8192)
        draw = lambda seed, rows: (mixed(seed, rows * 16, number * rows * 16) % numpy.uint32(17)).astype(int).reshape(rows, 16) - 8
        self.a, self.b = draw(5, 64), draw(6, 32)
        # What is read beside the operands shows: NaN in f16, a large number in bf16.
        self.image = numpy.full(SHARED_BYTES // 2, 0x7E7E, dtype="<u2")
        for layout, matrix in zip(self.layouts, (self.a, self.b)):
            bits = matrix.astype("<f2").view("<u2") if dtype == "f16" else (matrix.astype("<f4").view("<u4") >> 16).astype("<u2")
            self.image[layout.places() // 2] = bits

    def words(self):
        """Its descriptors, and which operands are MN-major."""
        return [*(layout.descriptor() for layout in self.layouts), self.majors]

    def expected(self):
        """The product as the threads hold it: 16 words a thread."""
        thread, i = numpy.mgrid[0:128, 0:16]
        row = 16 * (thread // 32) + thread % 32 // 4 + 8 * (i // 2 % 2)
        column = 8 * (i // 4) + 2 * (thread % 4) + i % 2
        # A sum of nothing but zeros is +0.
        return ((self.a @ self.b.T)[row, column].astype("<f4") + numpy.float32(0)).view("<u4").ravel()


# As many cases of each type: all four swizzles in f16, the widest one in bf16, which is the one in use.
MAJORS = {"f16": range(16), "bf16": range(12, 16)}


@dataclasses.dataclass(frozen=True)
class Boxes:
    """A tensor map, and the corners of boxes."""

    element: str
    dims: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    box_dims: tuple[int, ...]
    swizzle: int
    fills_with_nan: bool = False

    @property
    def size(self):
        return 4 if self.element == "f32" else 2

    @property
    def bytes(self):
        return int(numpy.prod(self.box_dims)) * self.size

    def corners(self):
        """Inside, across each edge, outside, and far outside: all at multiples of 16 bytes along a row. Anywhere else the copy
        engine says that the instruction is illegal."""
        width = self.dims[0]
        if len(self.dims) == 3:
            found = [(0, 0, 0), (16, 4, 2), (-8, -1, -1), (8, -1, 2), (0, 0, 3), (width, 0, 0), (-16, 1, 1)]
        else:
            found = [(0, 0), (16, 12), (-8, -3), (-8, 3), (width - 8, 14), (width, 0), (0, 20), (-64, -8), (1000, 1000)]
            found += [(2**31 - 8, 0), (0, -(2**31))]
        return [(*corner, *(0,) * (4 - len(corner))) for corner in found]

    def expected(self, tensor: bytes, corner, outside: bytes) -> bytes:
        """A box in shared memory, element by element."""
        box = bytearray(self.bytes)
        steps = (self.size, *self.strides_bytes)
        for number in range(self.bytes // self.size):
            rest, offset, is_inside = number, 0, True
            for axis, wide in enumerate(self.box_dims):
                at = corner[axis] + rest % wide
                rest //= wide
                is_inside &= 0 <= at < self.dims[axis]
                offset += at * steps[axis]
            place = number * self.size
            place ^= place >> 3 & max(self.swizzle - 16, 0)
            box[place : place + self.size] = tensor[offset : offset + self.size] if is_inside else outside
        return bytes(box)


TENSOR_WORDS = 2048
BOXES = [
    Boxes("bf16", (72, 20), (160,), (32, 8), 0),
    Boxes("bf16", (72, 20), (160,), (16, 8), 32),
    Boxes("bf16", (72, 20), (160,), (32, 8), 64),
    Boxes("bf16", (72, 20), (160,), (64, 8), 128),
    Boxes("bf16", (72, 20), (160,), (64, 8), 128, True),
    Boxes("f16", (72, 20), (160,), (32, 8), 0, True),
    Boxes("f32", (36, 20), (160,), (16, 8), 0, True),
    Boxes("f16", (24, 5, 3), (64, 352), (16, 2, 2), 0),
    Boxes("f16", (24, 5, 3), (64, 352), (16, 2, 2), 32),
]
