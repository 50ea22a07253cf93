"""Folders and JSON Lines files that come from anywhere: every oddity is one reported, skipped file."""

from __future__ import annotations

import os
import socket
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.config import Workspace
from indexer.corpus import CorpusError
from indexer.folder import read_file
from indexer.parsing import Parser
from indexer.retriever import Index
from indexer.sources import list_sources
from indexer.sync import SyncReport, sync
from tests import hostile
from tests.fakes import HashEncoder


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "good.md").write_text("The bell rings at noon.")
    return folder


def run(documents: Path) -> SyncReport:
    with Parser(max_file_mb=1, memory_mb=256, cpu_seconds=20) as parser:
        return sync(Workspace(documents.parent), documents, HashEncoder(), 64, parser)


def outside(folder: Path) -> Path:
    secret = folder.parent / "secret.txt"
    secret.write_text("The combination is 4711.")
    return secret


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def bind(path: Path) -> None:
    # The path of a socket must be short.
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


ODDITIES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "zip bomb": (
        lambda f: (f / "a.docx").write_bytes(hostile.zip_bomb(300 << 20)),
        "a.docx",
        "MB, more than",
    ),
    "Flate bomb": (
        lambda f: (f / "a.pdf").write_bytes(hostile.flate_bomb(300 << 20)),
        "a.pdf",
        "stopped its",
    ),
    "encrypted": (lambda f: (f / "a.pdf").write_bytes(hostile.encrypted_pdf()), "a.pdf", "encrypted"),
    "no pages": (lambda f: (f / "a.pdf").write_bytes(hostile.pdf_without_pages()), "a.pdf", "without pages"),
    "1 GB line": (
        lambda f: sparse(f / "a.txt", 1 << 30),
        "a.txt",
        "1,024.0 MB, more than index.max_file_mb = 1",
    ),
    "not UTF-8": (lambda f: (f / "a.md").write_bytes(b"caf\xe9"), "a.md", "not UTF-8 text (byte 3)"),
    "nothing": (lambda f: (f / "a.md").touch(), "a.md", "holds no text"),
    "loop of links": (lambda f: (f / "a").symlink_to("a"), "a", "a link that leads to itself"),
    "loop of two": (
        lambda f: ((f / "b.md").symlink_to("a.md"), (f / ".a").mkdir(), (f / "a.md").symlink_to("b.md")),
        "a.md",
        "a link that leads to itself",
    ),
    "link upwards": (lambda f: (f / "up").symlink_to(".."), "up", "a link to a folder"),
    "link to nothing": (lambda f: (f / "a.md").symlink_to("gone.md"), "a.md", "a link to nothing"),
    "link outwards": (
        lambda f: (f / "a.md").symlink_to(outside(f)),
        "a.md",
        "a link out of the documents folder",
    ),
    "two dots": (
        lambda f: (f / "..a..").mkdir() or (f / "a\\..\\b.md").write_text("x"),
        "a\\..\\b.md",
        "`..` step",
    ),
    "line break": (lambda f: (f / "a\nb.md").write_text("x"), "a\\nb.md", "holds the character \\n"),
    "escape": (lambda f: (f / "a\x1b[2J.md").write_text("x"), "a\\x1b[2J.md", "holds the character \\x1b"),
    "name not UTF-8": (
        lambda f: (f / os.fsdecode(b"\xff.md")).write_text("x"),
        "\\udcff.md",
        "name is not UTF-8",
    ),
    "pipe": (lambda f: os.mkfifo(f / "a.md"), "a.md", "a pipe, socket or device"),
    "socket": (lambda f: bind(f / "a.md"), "a.md", "a pipe, socket or device"),
    "device": (lambda f: (f / "a.md").symlink_to("/dev/zero"), "a.md", "a link out of the documents folder"),
    "JSON line": (
        lambda f: (f / "a.jsonl").write_text('{"id": 1}'),
        "a.jsonl, line 1",
        "text: Field required",
    ),
    "JSON id": (
        lambda f: (f / "a.jsonl").write_text('{"id": "../x", "text": "t"}'),
        "a.jsonl, line 1",
        "`..` step",
    ),
    "long JSON": (lambda f: sparse(f / "a.jsonl", 16 << 20), "a.jsonl, line 1", "longer than 8 MB"),
    "JSON nested": (
        lambda f: (f / "a.jsonl").write_text('{"id": "a", "text": ' + "[" * 99_999),
        "a.jsonl, line 1",
        "not JSON (recursion limit",
    ),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_a_hostile_file_is_reported_and_the_sync_finishes(documents: Path, oddity: str) -> None:
    make, name, reason = ODDITIES[oddity]
    make(documents)
    report = run(documents)
    assert report.added == 1
    skipped = dict(report.skipped)
    assert reason in skipped[name]
    assert all(text.isprintable() for pair in report.skipped for text in pair)
    assert len(skipped) == (2 if oddity == "loop of two" else 1)


def test_names_that_differ_in_a_byte_that_is_not_utf8_are_refused_one_by_one(documents: Path) -> None:
    (documents / os.fsdecode(b"caf\xe8")).mkdir()
    for name in (b"caf\xe8.md", b"caf\xe9.md", b"caf\xe8/plan.md", b"caf\xe9.jsonl"):
        (documents / os.fsdecode(name)).write_text('{"id": "a", "text": "The horn is blown."}')
    for added in (1, 0):  # the second time beside an index that knows the good file
        report = run(documents)
        assert report.added == added
        assert dict(report.skipped) == dict.fromkeys(
            ("caf\\udce8.md", "caf\\udce9.md", "caf\\udce8/plan.md", "caf\\udce9.jsonl"),
            "its name is not UTF-8; rename it",
        )
        assert len(report.skipped) == 4


def as_user(command: Callable[[], SyncReport]) -> SyncReport:
    """Run without the right to read everything, which root has."""
    if os.geteuid() != 0:
        return command()
    os.seteuid(65534)
    try:
        return command()
    finally:
        os.seteuid(0)


def test_unreadable_files_and_folders_are_reported_and_count_as_still_there() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to other users
        documents = Path(name, "documents")
        (documents / "shut").mkdir(parents=True)
        (documents / "good.md").write_text("The bell rings at noon.")
        (documents / "locked.md").write_text("The horn is blown.")
        (documents / "shut" / "inside.md").write_text("The lamp is lit.")
        for folder in (documents.parent, documents, documents / "shut"):
            folder.chmod(0o777)
        assert as_user(lambda: run(documents)).added == 3
        (documents / "good.md").unlink()
        (documents / "locked.md").chmod(0)
        (documents / "shut").chmod(0)
        report = as_user(lambda: run(documents))
        (documents / "shut").chmod(0o777)
    assert dict(report.skipped) == {
        "locked.md": "cannot be read (Permission denied); see its permissions",
        "shut/": "cannot be listed (Permission denied); see its permissions",
    }
    assert (report.removed, report.unchanged) == (1, 2)


def test_a_file_that_vanishes_or_changes_in_mid_sync_is_reported(documents: Path) -> None:
    (documents / "other.md").write_text("The lamp is lit.")
    with Parser(1) as parser:
        changed, gone = list_sources(documents, parser).sources
        (documents / "good.md").write_text("Changed.")
        (documents / "other.md").unlink()
        with pytest.raises(CorpusError, match="changed while it was being read; run again"):
            changed.load()
        with pytest.raises(CorpusError, match="vanished while it was being read; run again"):
            gone.load()


def test_a_link_to_a_file_inside_the_folder_is_a_document_of_its_own(documents: Path) -> None:
    (documents / "same.md").symlink_to("good.md")
    report = run(documents)
    assert (report.added, report.skipped) == (2, ())


def test_a_file_is_not_read_beyond_the_limit_however_it_grows(tmp_path: Path) -> None:
    sparse(tmp_path / "a.txt", 100 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match=r"more than index\.max_file_mb = 1"):
            read_file(tmp_path / "a.txt", 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_line_of_a_gigabyte_costs_no_memory(documents: Path) -> None:
    sparse(documents / "a.jsonl", 1 << 30)
    with (documents / "a.jsonl").open("ab") as file:
        file.write(b'\n{"id": "after", "text": "The lamp is lit."}\n')
    tracemalloc.start()
    try:
        with Parser(1) as parser:
            sources = list_sources(documents, parser).sources
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
    assert [source.id for source in sources] == ["a.jsonl#after", "a.jsonl, line 1", "good.md"]


def test_documents_of_a_file_with_a_bad_line_are_kept_until_it_is_repaired(documents: Path) -> None:
    lines = documents / "a.jsonl"
    lines.write_text(
        '{"id": "one", "text": "The lamp is lit."}\n{"id": "two", "text": "The horn is blown."}\n'
    )
    assert run(documents).added == 3
    lines.write_text('{"id": "one", "text": "The lamp is out."}\n{"id": "tw')
    report = run(documents)
    assert (report.changed, report.removed, report.unchanged) == (1, 0, 2)
    assert [name for name, _ in report.skipped] == ["a.jsonl, line 2"]
    lines.write_text('{"id": "one", "text": "The lamp is out."}\n')
    assert run(documents).removed == 1
    index = Index.open(Workspace(documents.parent), HashEncoder())
    assert {name: document.text for name, document in index.documents().items()} == {
        "a.jsonl#one": "The lamp is out.",
        "good.md": "The bell rings at noon.",
    }


def test_a_document_that_can_no_longer_be_read_stays_as_it_was(documents: Path) -> None:
    (documents / "plan.csv").write_text("part,size\nG-1,14\n")
    run(documents)
    (documents / "plan.csv").write_bytes(b"part,size\nG-1,\xff\n")
    report = run(documents)
    assert (report.changed, report.removed, report.unchanged) == (0, 0, 2)
    assert "not UTF-8" in dict(report.skipped)["plan.csv"]


def test_a_folder_in_which_nothing_can_be_read_is_an_error_that_names_one(documents: Path) -> None:
    (documents / "good.md").write_bytes(b"\xff")
    with pytest.raises(CorpusError, match=r"not one document can be read; the first: good\.md: not UTF-8"):
        run(documents)
