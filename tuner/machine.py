"""What this machine is good at: number format, memory allocator, memory figures."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache
from mmap import PAGESIZE
from pathlib import Path

import torch

from indexer.machine import cpu_multiplies_bfloat16

_GROWN = 1.5
"""How many times the memory that is needed may be held before holes are returned."""
_SPARE_AT_REST = 256 * 1024 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def choose_dtype(requested: str) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively (AMX, AVX512-BF16, recent GPUs), else float32."""
    if requested != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[requested]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32


def choose_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Let glibc reuse the large buffers of a step instead of returning them to the kernel each time.

    Page-faulting them in again costs about a tenth of a step in training and in serving on a CPU. Does nothing on other
    C libraries.
    """
    if (libc := _glibc()) is not None:
        # One arena for all threads: what the forward pass allocates is then reused by the backward thread.
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Back to glibc's defaults, and give back what is free now."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 10)
        libc.malloc_trim(0)


def return_holes() -> None:
    """Give back what is free now, and leave the allocator as it is."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


class Holes:
    """Batches of many shapes leave holes of many sizes in the heap, which add up to gigabytes if they are kept."""

    def __init__(self) -> None:
        self._needed = 0
        self._compact = True

    def return_if_many(self) -> None:
        """Return what is free now, if the process takes half as much again as the largest step alone would need."""
        pages = _resident_pages()
        if self._compact:
            self._needed = max(self._needed, pages)
        self._compact = pages > _GROWN * self._needed
        if self._compact or not pages:
            return_holes()


class Rest:
    """What a burst of requests leaves behind in the heap is given back when nothing is under way any more."""

    def __init__(self) -> None:
        self._least = 0

    def return_if_grown(self) -> None:
        """Return what is free now, if the process has grown by more than a quarter of a gigabyte since it last did so.

        Does nothing where the system does not say how large it is.
        """
        pages = _resident_pages()
        self._least = min(self._least, pages)
        if (pages - self._least) * PAGESIZE > _SPARE_AT_REST:
            return_holes()
            self._least = _resident_pages()


def _resident_pages() -> int:
    """Pages of this process in memory; 0 if the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux, or a sandbox without /proc
        return 0


@cache  # asked after every step, and finding out reads the interpreter's file
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL("libc.so.6")
