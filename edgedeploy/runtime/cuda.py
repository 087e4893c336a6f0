"""CUDA driver calls to run an engine, through ctypes: neither the toolkit nor a package is needed.

Every machine with a usable GPU has the driver library, Jetson too. UNVERIFIED: written from the driver API
reference (docs.nvidia.com/cuda/cuda-driver-api); no machine with a GPU has run it yet. Tests marked `gpu`
would.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint64, c_void_p
from functools import lru_cache

import numpy as np

from edgedeploy.backend import Array
from edgedeploy.core.errors import DeviceError

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@lru_cache(maxsize=1)
def driver() -> ctypes.CDLL:
    """The initialized driver; raises DeviceError without a driver or a GPU."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DeviceError(
            "there is no NVIDIA GPU or driver here",
            "copy the engine and its .json to the device and run there",
        ) from error
    if library.cuInit(0) != 0:
        raise DeviceError("the NVIDIA driver finds no GPU", "see: nvidia-smi")
    return library


def call(name: str, *arguments: object) -> None:
    """Call a driver function; raises DeviceError with CUDA's name of the error."""
    library = driver()
    status = getattr(library, name)(*arguments)
    if status != 0:
        text = c_char_p()
        library.cuGetErrorName(c_int(status), byref(text))
        reason = (text.value or b"unknown error").decode()
        raise DeviceError(f"CUDA: {name} failed with {reason} ({status})", "see: nvidia-smi")


def compute_capability() -> str:
    """Compute capability of the first GPU, e.g. "8.9"; raises DeviceError without a GPU."""
    device = c_int()
    call("cuDeviceGet", byref(device), c_int(0))
    numbers = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = c_int()
        call("cuDeviceGetAttribute", byref(value), c_int(attribute), device)
        numbers.append(value.value)
    return f"{numbers[0]}.{numbers[1]}"


class Stream:
    """A stream with two timing events in the first GPU's primary context, which the runtime API shares."""

    def __init__(self) -> None:
        device, self._context = c_int(), c_void_p()
        call("cuDeviceGet", byref(device), c_int(0))
        call("cuDevicePrimaryCtxRetain", byref(self._context), device)
        self.use()
        self.handle, self._start, self._end = c_void_p(), c_void_p(), c_void_p()
        call("cuStreamCreate", byref(self.handle), c_int(1))  # non-blocking
        call("cuEventCreate", byref(self._start), c_int(0))
        call("cuEventCreate", byref(self._end), c_int(0))

    def use(self) -> None:
        """Make the context current in this thread, which may not be the thread that opened the session."""
        call("cuCtxSetCurrent", self._context)

    def start(self) -> None:
        call("cuEventRecord", self._start, self.handle)

    def end(self) -> None:
        call("cuEventRecord", self._end, self.handle)

    def wait_ms(self) -> float:
        """Wait for all work; returns the milliseconds from `start` to `end` by the device's clock."""
        call("cuStreamSynchronize", self.handle)
        milliseconds = c_float()
        call("cuEventElapsedTime", byref(milliseconds), self._start, self._end)
        return float(milliseconds.value)

    def close(self) -> None:
        for event in (self._start, self._end):
            call("cuEventDestroy_v2", event)
        call("cuStreamDestroy_v2", self.handle)


class Buffer:
    """Device memory with a page-locked host array of the same size, for asynchronous copies."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self.bytes = max(1, int(np.prod(shape)) * dtype.itemsize)
        self.device, self._host = c_uint64(), c_void_p()
        call("cuMemAlloc_v2", byref(self.device), c_size_t(self.bytes))
        call("cuMemAllocHost_v2", byref(self._host), c_size_t(self.bytes))
        memory = memoryview((ctypes.c_byte * self.bytes).from_address(int(self._host.value or 0)))
        count = int(np.prod(shape))
        self.host: Array = np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)

    def upload(self, stream: Stream) -> None:
        call("cuMemcpyHtoDAsync_v2", self.device, self._host, c_size_t(self.bytes), stream.handle)

    def download(self, stream: Stream) -> None:
        call("cuMemcpyDtoHAsync_v2", self._host, self.device, c_size_t(self.bytes), stream.handle)

    def close(self) -> None:
        call("cuMemFree_v2", self.device)
        call("cuMemFreeHost", self._host)
