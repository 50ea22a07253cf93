"""Keeping the index equal to the documents for as long as the process runs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import watchfiles

from indexer.locking import IndexBusy
from indexer.sync import SyncReport

logger = logging.getLogger("openbook.indexer")

_SETTLED_MS = 200
"""How long nothing must change before a sync: programs write a file in several steps."""

_LONGEST_WAIT_MS = 1600
"""After this a sync runs even if files go on changing."""

_TICK_MS = 500
"""How often failed work and a replaced folder are looked after."""

_SECONDS_UNTIL_RETRY = 30.0


def watch(
    documents_path: Path,
    sync_documents: Callable[[], SyncReport],
    on_report: Callable[[SyncReport], None],
    on_error: Callable[[Exception], None],
    stop: threading.Event,
) -> None:
    """Sync now and after every change, until `stop` is set.

    A sync that fails is given to `on_error` (once, if the same again) and repeated with the next change or after
    half a minute; one that another writer holds up is repeated until it gets its turn.
    """
    retry_at: float | None = None
    last_error = ""
    for changed in _changes(documents_path, stop):
        if not changed and (retry_at is None or time.monotonic() < retry_at):
            continue
        try:
            report = sync_documents()
        except IndexBusy as error:
            logger.info("%s", error)
            retry_at = time.monotonic()
        except Exception as error:
            logger.debug("sync failed", exc_info=True)
            if str(error) != last_error:
                on_error(error)
            last_error = str(error)
            retry_at = time.monotonic() + _SECONDS_UNTIL_RETRY
        else:
            retry_at, last_error = None, ""
            on_report(report)


def _changes(documents_path: Path, stop: threading.Event) -> Iterator[bool]:
    """Whether anything may have changed at `documents_path`, every now and then; true once watching has begun.

    A single file is watched through its folder, and either again from the start when the folder is replaced:
    programs save by renaming, and a watch stays with what was renamed away.
    """
    while not stop.is_set():
        place = documents_path.resolve()
        folder = place if place.is_dir() else place.parent
        watched = _identity(folder)
        begun = False
        for changes in watchfiles.watch(
            folder,
            recursive=folder == place,
            watch_filter=_visible_below(folder) if folder == place else _is(place),
            step=_SETTLED_MS,
            debounce=_LONGEST_WAIT_MS,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
            stop_event=stop,
        ):
            # The system may tell nothing when the watched folder itself is moved away.
            replaced = documents_path.resolve() != place or _identity(folder) != watched
            yield bool(changes) or replaced or not begun
            begun = True
            if replaced:
                break
        while not documents_path.exists() and not stop.wait(_TICK_MS / 1000):
            yield False


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _visible_below(folder: Path) -> Callable[[watchfiles.Change, str], bool]:
    """Changes of files that a sync would look at; not those of editors and version control."""

    def is_visible(_change: watchfiles.Change, path: str) -> bool:
        return not any(part.startswith((".", "~$")) for part in Path(path).relative_to(folder).parts)

    return is_visible


def _is(file: Path) -> Callable[[watchfiles.Change, str], bool]:
    return lambda _change, path: Path(path) == file
