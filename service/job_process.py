"""The child process of a job: begun in the background, followed by what it reports, and ended."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import psutil

SECONDS_TO_STOP = 10.0
_PROGRESS = re.compile(r"([a-z][\w ,-]{0,60}): (\d+)/(\d+)\b")
_FAILURE = re.compile(r"openbook: (.{1,2000})")
_NICENESS = 10
"""Answers go before jobs."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a process says that it is at, with how much of it is `done` out of `total`."""

    step: str
    done: int
    total: int


class JobProcess:
    """A command that runs from construction on, with low priority; it may be ended from any thread."""

    def __init__(self, arguments: Sequence[str], output: IO[str]) -> None:
        """What the command prints goes to the file `output`, for nobody reads a pipe while its reports are read."""
        self._process = subprocess.Popen(  # noqa: S603 - a command of ours
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "COLUMNS": "240"},  # progress must not be folded
            start_new_session=True,  # Ctrl-C is for the service, which ends the job itself
        )
        self.pid = self._process.pid
        self.began: float | None = None
        """Seconds since 1970 as the system has them, which with `pid` tell it from later ones; None if it is gone."""
        self.failure = ""
        """The failure that it named last."""
        with suppress(psutil.Error):  # it is gone, or its priority is not ours to change
            handle = psutil.Process(self.pid)
            self.began = handle.create_time()
            handle.nice(max(handle.nice(), _NICENESS))

    def progress(self) -> Iterator[Progress]:
        """What it reports, until it closes its output."""
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        with self._process.stderr as lines:
            for line in lines:
                if found := _PROGRESS.match(line):
                    yield Progress(found[1], int(found[2]), int(found[3]))
                elif found := _FAILURE.match(line):
                    self.failure = found[1].strip()

    def status(self) -> int:
        """The exit status, by force if it closed its output and lingers."""
        try:
            return self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            return self.kill()

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> int:
        """End it by force; returns its exit status."""
        self._process.kill()
        if self._process.stderr is not None:
            self._process.stderr.close()
        return self._process.wait()


def end_orphan(pid: int, began: float) -> None:
    """Kill the process if it still is the one that began then: numbers are used again."""
    # One that has ended may still be listed, if nobody asks how.
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.TimeoutExpired):
        process = psutil.Process(pid)
        if process.create_time() == began:
            process.kill()
            process.wait(SECONDS_TO_STOP)
