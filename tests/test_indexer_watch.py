"""The index follows the documents while somebody watches them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from indexer.config import Workspace
from indexer.corpus import CorpusError
from indexer.locking import IndexBusy
from indexer.parsing import Parser
from indexer.retriever import Index
from indexer.sync import SyncReport, sync
from indexer.watch import watch
from tests.fakes import HashEncoder

PATIENCE_SECONDS = 60


def wait_until(condition: Callable[[], bool]) -> float:
    """Seconds until `condition` held."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < PATIENCE_SECONDS
        time.sleep(0.01)
    return time.monotonic() - started


class Watcher:
    """Watches in a thread; `fail_with` are errors for the next syncs."""

    def __init__(self, workspace: Workspace, documents: Path) -> None:
        self.workspace, self.documents = workspace, documents
        self.encoder = HashEncoder()
        self.parser = Parser(4)
        self.reports: list[SyncReport] = []
        self.errors: list[str] = []
        self.fail_with: list[Exception] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(
            target=watch,
            args=(
                documents,
                self.sync,
                self.reports.append,
                lambda error: self.errors.append(str(error)),
                self.stop,
            ),
        )

    def sync(self) -> SyncReport:
        if self.fail_with:
            raise self.fail_with.pop()
        return sync(self.workspace, self.documents, self.encoder, 64, self.parser)

    def start(self) -> Index:
        """The index, once the first sync is done."""
        self.thread.start()
        wait_until(lambda: bool(self.reports))
        return Index.open(self.workspace, HashEncoder())

    def end(self) -> None:
        self.stop.set()
        self.thread.join()
        self.parser.close()


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "bell.md").write_text("The bell rings at noon.")
    return folder


@pytest.fixture
def watcher(tmp_path: Path, documents: Path) -> Iterator[Watcher]:
    watcher = Watcher(Workspace(tmp_path), documents)
    yield watcher
    watcher.end()


def found(index: Index, query: str) -> str:
    return index.retriever().search([query], 1)[0][0].chunk.text


def test_a_change_is_retrievable_within_two_seconds(watcher: Watcher, documents: Path) -> None:
    index = watcher.start()
    seconds = []
    for number in range(3):
        text = f"Valve {number} was oiled today."
        (documents / "valve.md").write_text(text)
        seconds.append(wait_until(lambda text=text: found(index, text) == text))
    assert min(seconds) < 2.0  # the others may have waited for a busy machine


def test_new_folders_moves_and_deletions_are_followed(watcher: Watcher, documents: Path) -> None:
    index = watcher.start()
    (documents / "deep" / "deeper").mkdir(parents=True)
    (documents / "deep" / "deeper" / "lamp.html").write_text(
        "<html><body><p>The lamp is lit.</p></body></html>"
    )
    wait_until(lambda: set(index.documents()) == {"bell.md", "deep/deeper/lamp.html"})
    (documents / "bell.md").rename(documents / "gong.md")
    wait_until(lambda: set(index.documents()) == {"gong.md", "deep/deeper/lamp.html"})
    shutil.rmtree(documents / "deep")
    wait_until(lambda: set(index.documents()) == {"gong.md"})


def test_a_file_that_is_replaced_by_renaming_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "a", "text": "The bell rings."}\n')
    watcher = Watcher(Workspace(tmp_path), path)
    try:
        index = watcher.start()
        for number in range(2):
            (tmp_path / "new").write_text(f'{{"id": "b{number}", "text": "The lamp is lit."}}\n')
            (tmp_path / "new").rename(path)
            wait_until(lambda number=number: set(index.documents()) == {f"b{number}"})
    finally:
        watcher.end()


def test_a_folder_that_goes_and_comes_back_is_followed(watcher: Watcher, documents: Path) -> None:
    index = watcher.start()
    documents.rename(documents.with_name("away"))
    wait_until(lambda: bool(watcher.errors))
    assert "no such folder" in watcher.errors[0]
    documents.with_name("away").rename(documents)
    (documents / "lamp.md").write_text("The lamp is lit.")
    wait_until(lambda: "lamp.md" in index.documents())
    (documents / "horn.md").write_text("The horn is blown.")
    wait_until(lambda: "horn.md" in index.documents())


def test_an_error_is_reported_once_and_watching_goes_on(watcher: Watcher, documents: Path) -> None:
    index = watcher.start()
    watcher.fail_with = [CorpusError("no luck"), CorpusError("no luck")]
    for number in range(3):
        (documents / "lamp.md").write_text(f"The lamp is lit {number}.")
        wait_until(lambda number=number: len(watcher.fail_with) <= max(1 - number, 0))
    wait_until(lambda: "lamp.md" in index.documents())
    assert watcher.errors == ["no luck"]


def test_a_sync_held_up_by_another_writer_is_repeated_without_a_word(
    watcher: Watcher, documents: Path
) -> None:
    index = watcher.start()
    watcher.fail_with = [IndexBusy("somebody writes")]
    (documents / "lamp.md").write_text("The lamp is lit.")
    wait_until(lambda: "lamp.md" in index.documents())
    assert watcher.errors == []


def test_hidden_files_and_the_index_itself_cause_no_sync(tmp_path: Path) -> None:
    (tmp_path / "bell.md").write_text("The bell rings.")
    watcher = Watcher(Workspace(tmp_path), tmp_path)
    try:
        index = watcher.start()
        (tmp_path / ".bell.md.swp").write_text("Hidden.")
        (tmp_path / "lamp.md").write_text("The lamp is lit.")
        wait_until(lambda: "lamp.md" in index.documents())
        wait_until(lambda: len(watcher.reports) == 2)
    finally:
        watcher.end()
    assert [report.added for report in watcher.reports] == [1, 1]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_cleanly_when_told_to(tmp_path: Path, documents: Path, how: signal.Signals) -> None:
    code = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
from indexer import commands
from indexer.config import IndexConfig, ModelConfig, Workspace
from tests.fakes import HashEncoder
commands.load_encoder = lambda ref: HashEncoder()
commands.index_watch(Workspace(Path(sys.argv[1])), IndexConfig(), ModelConfig(), as_json=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    os.kill(process.pid, how)
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert '"added": 1' in first
    assert output == ""
    assert errors.splitlines()[0] == f"watching {documents}; Ctrl-C ends it"
    assert errors.splitlines()[-1] == "no longer watching"
