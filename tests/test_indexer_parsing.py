"""The process with limits in which files are parsed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from indexer.corpus import CorpusError, Document
from indexer.parsing import Parser
from tests import hostile

HTML = "<html><body><p>Note {}.</p></body></html>"


@pytest.fixture
def parser() -> Iterator[Parser]:
    with Parser(max_file_mb=4, memory_mb=256, cpu_seconds=20) as parser:
        yield parser


def processes() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def html(number: int) -> bytes:
    return HTML.format(number).encode()


def csv(number: int) -> bytes:
    return f"note\n{number}".encode()


def test_bytes_and_a_name_become_a_document(parser: Parser) -> None:
    assert parser.document("notes/first.HTML", html(1)) == Document("notes/first.HTML", "First", "Note 1.")
    assert parser.document("a.md", b"# A\n\nb") == Document("a.md", "A", "# A\n\nb")


def test_front_matter_is_parsed_in_the_process_with_limits(parser: Parser) -> None:
    before = processes()
    document = parser.document("a.md", b"---\nteam: a\nn: 2\n---\n# A\n\nb")
    assert document == Document("a.md", "A", "# A\n\nb", {"team": "a", "n": 2})
    assert len(processes() - before) == 1


def test_one_process_serves_many_files_and_ends_with_the_parser(parser: Parser) -> None:
    before = processes()
    parser.document("plain.txt", b"No process for this.")
    assert processes() == before
    seen = set()
    for number in range(5):
        parser.document("a.html", html(number))
        seen |= processes() - before
    assert len(seen) == 1
    parser.close()
    assert processes() == before


def test_threads_take_turns(parser: Parser) -> None:
    texts: dict[int, str] = {}

    def parse(number: int) -> None:
        texts[number] = parser.document("a.csv", csv(number)).text

    threads = [threading.Thread(target=parse, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: f"## {number}\n\nnote: {number}" for number in range(8)}


BOMBS = {
    "bomb.docx": (lambda: hostile.zip_bomb(300 << 20), "unpacks to 2.. MB, more than 256"),
    "crowd.docx": (lambda: hostile.zip_bomb(60 << 20), "needs more than 256 MB of memory"),
    "bomb.pdf": (lambda: hostile.flate_bomb(300 << 20), "stopped its parser .SIG.*256 MB of memory"),
    "secret.pdf": (hostile.encrypted_pdf, "encrypted; save it without a password"),
    "none.pdf": (hostile.pdf_without_pages, "without pages"),
    "old.docx": (lambda: b"\xd0\xcf\x11\xe0" * 99, "encrypted, or of Office 2003"),
    "wide.csv": (
        lambda: b"a" * 1_000_000 + b",b\n" + b"1,2\n" * 100_000,
        "needs more than 256 MB of memory",
    ),
    "long.csv": (
        lambda: b"a" * 2000 + b"\n" + b"1\n" * 10_000,
        "20,.* characters of text, more than 16,000,000",
    ),
    "deep.rst": (lambda: b"".join(b" " * i + b"* a\n\n" for i in range(700)), "RecursionError"),
    "page.html": (lambda: b"<html><body></body></html>", "holds no text"),
    "large.html": (lambda: b" " * (5 << 20), "5.0 MB, more than index.max_file_mb = 4"),
    "bad.csv": (lambda: b"a,b\n\xff,1", "not UTF-8 text .byte 4"),
    "bomb.md": (
        lambda: b"---\na: &a [x]\nb: &b [*a, *a]\n---\nText.",
        r"front matter: the alias \*a; write the value out",
    ),
    "bad.md": (lambda: b"\xff", "not UTF-8 text .byte 0"),
    "list.jsonl": (lambda: b"{}", "holds many documents"),
    "run.exe": (lambda: b"MZ", r"ends in none of \.csv"),
    "noending": (lambda: b"", "ends in none of"),
    "": (lambda: b"", "its name is empty"),
    "../up.md": (lambda: b"x", r"a `\.\.` step"),
    "a\\..\\up.md": (lambda: b"x", r"a `\.\.` step"),
    "nul\x00.md": (lambda: b"x", r"holds the character \\x00"),
    "line\n.md": (lambda: b"x", r"holds the character \\n"),
    "\u202egnp.md": (lambda: b"x", r"holds the character \\u202e"),
    "\udcff.md": (lambda: b"x", "is not UTF-8"),
    "a" * 1022 + ".md": (lambda: b"x", "has 1025 characters"),
}


@pytest.mark.parametrize("name", BOMBS, ids=ascii)
def test_hostile_bytes_are_refused_with_a_reason_and_the_next_file_is_read(parser: Parser, name: str) -> None:
    make, reason = BOMBS[name]
    with pytest.raises(CorpusError, match=reason):
        parser.document(name, make())
    assert parser.document("next.csv", b"a\n1").text == "## 1\n\na: 1"


def test_bombs_cost_the_caller_no_memory() -> None:
    code = """
import resource, sys
from indexer.corpus import CorpusError
from indexer.parsing import Parser
from tests import hostile
bombs = {"a.docx": hostile.zip_bomb(60 << 20), "a.pdf": hostile.flate_bomb(300 << 20),
         "a.csv": b"a" * 1_000_000 + b",b\\n" + b"1,2\\n" * 1_000}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
with Parser(4, memory_mb=256) as parser:
    for name, data in bombs.items():
        try:
            parser.document(name, data)
        except CorpusError:
            print("refused")
print((peak() - before) / 1024)
"""
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert output[:-1] == ["refused"] * 3
    assert float(output[-1]) < 16


def test_a_slow_file_is_stopped_and_not_tried_again() -> None:
    with Parser(max_file_mb=4, cpu_seconds=1) as parser:
        slow = b"*a " * 100_000
        with pytest.raises(CorpusError, match="took more than 1 s to parse"):
            parser.document("slow.rst", slow)
        before = processes()
        with pytest.raises(CorpusError, match="took more than 1 s to parse"):
            parser.document("copy.rst", slow)
        assert processes() == before


def test_a_process_killed_between_files_is_replaced(parser: Parser) -> None:
    before = processes()
    parser.document("a.csv", csv(1))
    (worker,) = processes() - before
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    assert parser.document("a.csv", csv(2)).text == "## 2\n\nnote: 2"


def test_the_process_is_small_sees_no_keys_and_loads_no_model(
    parser: Parser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENBOOK_API_KEY", "key")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('a file in the current folder was run')")
    before = processes()
    for name, data in {"a.html": html(1), "a.pdf": hostile.pdf(b"BT /F1 9 Tf (Hi) Tj ET")}.items():
        parser.document(name, data)
    worker = psutil.Process((processes() - before).pop())
    assert "OPENBOOK_API_KEY" not in worker.environ()
    assert not [mapped.path for mapped in worker.memory_maps() if "torch" in mapped.path]
    assert worker.memory_info().rss < 150 << 20


def test_an_interrupt_leaves_no_reply_for_the_next_file(parser: Parser) -> None:
    parser.document("a.csv", csv(1))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            parser.document("slow.rst", b"*a " * 100_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert parser.document("a.csv", csv(2)).text == "## 2\n\nnote: 2"


def test_a_missing_library_is_a_fault_of_the_installation(
    parser: Parser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docx.py").write_text("raise ImportError('no docx here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ImportError, match="no docx here"):
        parser.document("a.docx", hostile.zip_bomb(0))
