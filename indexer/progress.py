"""Progress of long work: a bar with ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0

Advance = Callable[..., None]
"""`advance(n=1, note="")`: n more units are done; `note` is shown beside the bar."""


@contextmanager
def progress(
    description: str, total: int, console: Console | None = None, done: int = 0
) -> Iterator[Advance]:
    """Show how far work of `total` units has come, on standard error.

    `done` of them were done in an earlier run, and say nothing of how long the others take.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        ) as bars:
            task = bars.add_task(description, total=total, completed=done, note="")

            def advance_bar(n: int = 1, note: str = "") -> None:
                bars.update(task, advance=n)
                if note:
                    bars.update(task, note=note)

            yield advance_bar
        return

    started = last_line = time.monotonic()
    before = done

    def advance_line(n: int = 1, note: str = "") -> None:
        nonlocal done, last_line
        done += n
        now = time.monotonic()
        if now - last_line >= SECONDS_BETWEEN_LINES and done < total:
            remaining = (now - started) / max(done - before, 1) * (total - done)
            console.print(f"{description}: {done}/{total}, about {remaining:.0f} s left {note}".rstrip())
            last_line = now

    yield advance_line
    console.print(f"{description}: {done}/{total} in {time.monotonic() - started:.1f} s")
