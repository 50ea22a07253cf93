"""The process in which untrusted files are parsed; started by `indexer.parsing`, imports no model.

It takes a JSON line `{"name", "size"}` and that many bytes, and gives a JSON line back. JSON, because the other
side must not believe a process that a hostile file may have taken over.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from indexer.corpus import CorpusError
from indexer.formats import parse

_RETIREMENT = 0.3
"""A process that once held this share of its limit is replaced, so that each file finds most of it free."""


def main(memory_bytes: int, cpu_seconds: int) -> None:
    """Answer requests until standard input ends."""
    requests, replies = _take_pipes()
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    logging.disable()
    warnings.simplefilter("ignore")
    while header := requests.readline():
        request = json.loads(header)
        _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + cpu_seconds)
        reply = _reply(request["name"], requests.read(request["size"]))
        if "refused" in reply and _peak_bytes() > memory_bytes * 0.7:
            reply = {"exhausted": True}  # parsers in C call it many names
        reply["retire"] = _peak_bytes() > memory_bytes * _RETIREMENT
        replies.write(json.dumps(reply, ensure_ascii=False).encode() + b"\n")
        replies.flush()


def _reply(name: str, data: bytes) -> dict[str, Any]:
    try:
        content = parse(name, data)
    except CorpusError as error:
        return {"refused": str(error)}
    except ImportError as error:
        return {"broken": str(error)}
    except MemoryError:
        return {"exhausted": True}
    return content._asdict()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for us alone: a library that prints must not end up in a reply."""
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    return pipes


def _limit(what: int, most: int) -> None:
    """Lower a limit where the system has it; the hard one stays, as the limit on time is moved on."""
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    try:
        resource.setrlimit(what, (most, hard))
    except (OSError, ValueError):
        if sys.platform == "linux":
            raise


def _peak_bytes() -> int:
    """Most memory held so far, 0 if the system does not say."""
    # Not `getrusage`: its peak is inherited from the process that started this one.
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return 0
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(peak[1]) << 10 if peak else 0
