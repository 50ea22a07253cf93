"""Untrusted bytes to documents: every format that needs a parser is parsed in a process with limits."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from pydantic import BaseModel, ValidationError

from indexer.corpus import CorpusError, Document
from indexer.folder import too_large
from indexer.formats import (
    MAX_TEXT_CHARACTERS,
    PLAIN_SUFFIXES,
    SUFFIXES,
    Content,
    may_have_front_matter,
    parse,
    suffix_of,
)
from indexer.metadata import check_metadata
from indexer.names import check_id

logger = logging.getLogger("openbook.indexer")

_MEMORY_MB = 1024
_CPU_SECONDS = 60
_WALL_SECONDS_PER_CPU_SECOND = 5
"""A busy machine must not make innocent files look slow, nor a parser that sleeps hold up a sync for ever."""

_MAX_REPLY_BYTES = 6 * MAX_TEXT_CHARACTERS

_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
"""What a parser may see of the environment: no keys."""

_START = "import sys; sys.path.extend(sys.argv[1:2]); from indexer.parse_worker import main; main({}, {})"


class Parser:
    """Makes documents of named bytes, one at a time; several threads may share it.

    The process behind it starts with the first file that needs it, serves all that follow, and is replaced when a
    file kills it. What was refused is remembered by its hash, so that watching does not wait for a bomb twice.
    """

    def __init__(
        self, max_file_mb: int, memory_mb: int = _MEMORY_MB, cpu_seconds: int = _CPU_SECONDS
    ) -> None:
        self.max_bytes = max_file_mb << 20
        self._memory_mb = memory_mb
        self._cpu_seconds = cpu_seconds
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._refusals: dict[str, str] = {}

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def document(self, document_id: str, data: bytes) -> Document:
        """The document in `data`, whose format the ending of its id names (a path with `/`).

        Raises CorpusError, without the id, if the id or the bytes cannot be used.
        """
        check_id(document_id)
        suffix = suffix_of(document_id)
        if suffix == ".jsonl":
            raise CorpusError("a .jsonl file holds many documents; add them one by one")
        if suffix not in SUFFIXES:
            raise CorpusError(f"ends in none of {' '.join(sorted(SUFFIXES))}; rename or convert it")
        if len(data) > self.max_bytes:
            raise too_large(len(data), self.max_bytes)
        if suffix in PLAIN_SUFFIXES and not may_have_front_matter(document_id, data):
            content = parse(document_id, data)
        else:
            content = self._parse_elsewhere(document_id, data)
        return Document(document_id, *content)

    def close(self) -> None:
        """End the process; the next file would start another."""
        with self._lock:
            self._retire()

    def _parse_elsewhere(self, name: str, data: bytes) -> Content:
        key = suffix_of(name) + hashlib.sha256(data).hexdigest()
        with self._lock:
            if (reason := self._refusals.get(key)) is None:
                try:
                    return self._exchange(name, data)
                except CorpusError as error:
                    reason = self._refusals[key] = str(error)
        raise CorpusError(reason)

    def _exchange(self, name: str, data: bytes) -> Content:
        if self._worker is None or not self._worker.is_alive():
            self._retire()
            self._worker = _Worker(self._memory_mb, self._cpu_seconds)
        try:
            reply = self._worker.parse(name, data)
        except BaseException:  # also an interrupt: what it was about to say answers nobody's next question
            self._retire()
            raise
        if reply.retire:
            self._retire()
        if reply.broken:
            raise ImportError(reply.broken)
        if reply.exhausted:
            raise CorpusError(f"needs more than {self._memory_mb} MB of memory; repair, split or remove it")
        if reply.refused:
            raise CorpusError(reply.refused)
        return Content(reply.title, reply.text, check_metadata(reply.metadata))

    def _retire(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


class _Reply(BaseModel):
    title: str = ""
    text: str = ""
    metadata: dict[str, Any] = {}
    refused: str = ""
    broken: str = ""
    exhausted: bool = False
    retire: bool = False


class _Worker:
    def __init__(self, memory_mb: int, cpu_seconds: int) -> None:
        self._memory_mb = memory_mb
        self._cpu_seconds = cpu_seconds
        packages = str(Path(__file__).resolve().parent.parent)
        # A program of its own, not a fork (the service has threads) and not `multiprocessing` (which would run the
        # caller's main module again); -P keeps modules that lie in the current folder out.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-c", _START.format(memory_mb << 20, cpu_seconds), packages],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the parent
        )
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        self._finalizer = weakref.finalize(self, _stop, self._process)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def parse(self, name: str, data: bytes) -> _Reply:
        """What the process replies; raises CorpusError if it dies of the file."""
        started = time.monotonic()
        seconds = self._cpu_seconds * _WALL_SECONDS_PER_CPU_SECOND
        alarm = threading.Timer(seconds, self._process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            self._requests.write(json.dumps({"name": name, "size": len(data)}).encode() + b"\n")
            self._requests.write(data)
            self._requests.flush()
            line = self._replies.readline(_MAX_REPLY_BYTES)
            return _Reply.model_validate_json(line)
        except (BrokenPipeError, ValidationError):
            status = _stop(self._process)
        finally:
            alarm.cancel()
        logger.info("parser stopped with status %d after %.1f s", status, time.monotonic() - started)
        if status == -signal.SIGXCPU or time.monotonic() - started >= seconds:
            raise CorpusError(f"took more than {self._cpu_seconds} s to parse; repair, split or remove it")
        raise CorpusError(
            f"stopped its parser ({_name_of(status)}): damaged, or needs more than {self._memory_mb} MB of"
            " memory; repair or remove it"
        )

    def stop(self) -> None:
        self._finalizer()


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Have the process end, by force if it does not at once; returns its status."""
    for pipe in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):  # it ended before it had read everything
            cast("IO[bytes]", pipe).close()
    try:
        return process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _name_of(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
