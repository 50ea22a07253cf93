import platform
import sys
from mmap import PAGESIZE
from pathlib import Path

import pytest

from tuner.machine import Rest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="holes are returned by glibc"
)

PIECE = 100_000
"""Bytes: small enough to come from the heap, which only shrinks by itself at its end."""


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGESIZE


def test_what_a_burst_leaves_behind_is_returned_at_rest():
    rest = Rest()
    rest.return_if_grown()
    at_rest = resident_bytes()
    blocks = [bytearray(PIECE) for _ in range(5_000)]
    end = blocks[-1]
    del blocks
    assert resident_bytes() > at_rest + 400e6
    rest.return_if_grown()
    assert resident_bytes() < at_rest + 200e6
    assert len(end) == PIECE
