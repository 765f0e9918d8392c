"""The part of NVIDIA's driver that record.py needs, through ctypes: nothing has to be installed but the driver and NumPy."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_size_t, c_uint, c_uint64, c_void_p

import numpy

# As cuda.h numbers them.
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
ELEMENT_TYPES = {"f16": 6, "f32": 7, "bf16": 9}
SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}


class Unavailable(Exception):
    """There is no driver, or no such GPU."""


class Gpu:
    """A GPU with its primary context current, and the memory of one recording."""

    def __init__(self, ordinal: int):
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Unavailable(f"there is no NVIDIA driver: {error}") from error
        try:
            self.call("cuInit", c_uint(0))
            device, context, version = c_int(), c_void_p(), c_int()
            self.call("cuDeviceGet", byref(device), c_int(ordinal))
        except RuntimeError as error:
            raise Unavailable(f"there is no GPU {ordinal}: {error}") from error
        self.call("cuDevicePrimaryCtxRetain", byref(context), device)
        self.call("cuCtxSetCurrent", context)
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, c_int(256), device)
        self.name = name.value.decode()
        self.call("cuDriverGetVersion", byref(version))
        self.driver_cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
        self.capability = tuple(self.attribute(device, which) for which in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR))

    def call(self, name: str, *arguments):
        """A function of the driver; an error has its name and the driver's words."""
        result = getattr(self.library, name)(*arguments)
        if result:
            text = ctypes.c_char_p()
            known = self.library.cuGetErrorString(c_int(result), byref(text)) == 0 and text.value
            raise RuntimeError(f"{name}: {text.value.decode() if known else f'error {result}'}")

    def attribute(self, device: c_int, which: int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), c_int(which), device)
        return value.value

    def module(self, text: str) -> c_void_p:
        """PTX, which the driver compiles."""
        module = c_void_p()
        self.call("cuModuleLoadData", byref(module), ctypes.c_char_p(text.encode() + b"\0"))
        return module

    def allocate(self, size: int) -> int:
        address = c_uint64()
        self.call("cuMemAlloc_v2", byref(address), c_size_t(size))
        return address.value

    def upload(self, array: numpy.ndarray) -> int:
        """The address of a copy on the GPU."""
        array = numpy.ascontiguousarray(array)
        address = self.allocate(array.nbytes)
        self.call("cuMemcpyHtoD_v2", c_uint64(address), c_void_p(array.ctypes.data), c_size_t(array.nbytes))
        return address

    def download(self, address: int, count: int) -> numpy.ndarray:
        """Words from there, once all kernels are done."""
        words = numpy.empty(count, dtype="<u4")
        self.call("cuMemcpyDtoH_v2", c_void_p(words.ctypes.data), c_uint64(address), c_size_t(words.nbytes))
        return words

    def free(self, *addresses: int):
        for address in addresses:
            self.call("cuMemFree_v2", c_uint64(address))

    def launch(self, module: c_void_p, kernel: str, blocks: int, threads: int, *arguments):
        """Addresses and numbers go as 64 bits, a tensor map as it is. Returns when the kernel is done; an error has its name."""
        function = c_void_p()
        self.call("cuModuleGetFunction", byref(function), module, ctypes.c_char_p(kernel.encode()))
        values = [argument if isinstance(argument, ctypes.Array) else c_uint64(argument) for argument in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = [c_uint(size) for size in (blocks, 1, 1, threads, 1, 1, 0)]
        try:
            self.call("cuLaunchKernel", function, *sizes, c_void_p(0), pointers, c_void_p(0))
            self.call("cuCtxSynchronize")
        except RuntimeError as error:
            raise RuntimeError(f"{kernel}: {error}") from error

    def tensor_map(self, element: str, address: int, dims, strides_bytes, box_dims, swizzle: int, fills_with_nan: bool):
        """The driver's 128 bytes, at a multiple of 64."""
        rank = len(dims)
        raw = (ctypes.c_uint8 * 192)()
        encoded = (ctypes.c_uint8 * 128).from_buffer(raw, -ctypes.addressof(raw) % 64)
        self.call(
            "cuTensorMapEncodeTiled",
            encoded,
            c_int(ELEMENT_TYPES[element]),
            c_uint(rank),
            c_void_p(address),
            (c_uint64 * rank)(*dims),
            (c_uint64 * rank)(*strides_bytes),
            (c_uint * rank)(*box_dims),
            (c_uint * rank)(*(1,) * rank),
            c_int(0),
            c_int(SWIZZLES[swizzle]),
            c_int(0),
            c_int(fills_with_nan),
        )
        return encoded
