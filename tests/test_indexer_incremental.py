"""What a sync does again when little or nothing has changed, and what it leaves of what is gone."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from indexer.config import Workspace
from indexer.corpus import CorpusError
from indexer.retriever import Index
from indexer.signatures import FileHashes
from indexer.snapshot import Snapshot
from indexer.sync import SyncReport, sync
from indexer.verify import verify
from tests.fakes import HashEncoder

FILES = 2000


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "documents").mkdir()
    return Workspace(tmp_path)


def run(workspace: Workspace, encoder: HashEncoder | None = None) -> SyncReport:
    return sync(workspace, workspace.root / "documents", encoder or HashEncoder(dim=8), 32)


def text(number: int, care: str = "weekly") -> str:
    return f"# Lamp {number}\n\n## Light\n\nIt glows {number}.\n\n## Care\n\nDust lamp {number} {care}.\n"


def test_one_changed_of_2000_documents_costs_one_chunk(workspace: Workspace) -> None:
    folder = workspace.root / "documents"
    for number in range(FILES):
        (folder / f"{number}.md").write_text(text(number))
    first = run(workspace)
    assert (first.added, first.chunks, first.chunks_embedded) == (FILES, 2 * FILES, 2 * FILES)

    (folder / "77.md").write_text(text(77, "daily"))
    encoder = HashEncoder(dim=8)
    changed = run(workspace, encoder)
    assert encoder.encoded == ["Lamp 77 > Care\nDust lamp 77 daily."]
    assert (changed.changed, changed.unchanged, changed.chunks_embedded) == (1, FILES - 1, 1)
    nothing = run(workspace, encoder)
    assert (nothing.generation, nothing.unchanged, nothing.chunks_embedded) == (2, FILES, 0)
    assert len(encoder.encoded) == 1


def test_moved_and_renamed_files_embed_nothing(workspace: Workspace) -> None:
    folder = workspace.root / "documents"
    for number in range(3):
        (folder / f"{number}.md").write_text(text(number))
    run(workspace)
    (folder / "sub").mkdir()
    (folder / "0.md").rename(folder / "sub" / "zero.md")
    (folder / "1.md").rename(folder / "one.md")
    encoder = HashEncoder(dim=8)
    report = run(workspace, encoder)
    assert (report.added, report.removed, report.unchanged) == (2, 2, 1)
    assert (report.chunks, report.chunks_embedded, encoder.encoded) == (6, 0, [])
    with closing(Snapshot(workspace.database)) as snapshot:
        assert set(snapshot.documents()) == {"2.md", "one.md", "sub/zero.md"}
    verify(workspace)


def digest(hashes: FileHashes, path: Path) -> str:
    return hashes.hash_file("f", path, b"1:", 1 << 20)


def later() -> int:
    return time.time_ns() + 10_000_000_000


def test_untouched_file_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    first = FileHashes(clock=later)
    digest(first, path)
    signature, _ = first.seen["f"]
    again = FileHashes({"f": (signature, "remembered")}, clock=later)
    assert digest(again, path) == "remembered"
    assert again.seen == {"f": (signature, "remembered")}
    assert again.hash_file("f", path, b"2:", 1 << 20) != "remembered"  # another version of the parsers
    with pytest.raises(CorpusError, match=r"more than index.max_file_mb"):
        again.hash_file("f", path, b"1:", 2)


@pytest.mark.parametrize("change", ["content", "same size and time", "replaced", "only touched"])
def test_touched_file_is_read_again(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    os.utime(path, ns=(1_000, 1_000))
    first = FileHashes(clock=later)
    before = digest(first, path)
    if change == "content":
        path.write_text("three")
    elif change == "same size and time":
        path.write_text("two")
        os.utime(path, ns=(1_000, 1_000))
    elif change == "replaced":
        (tmp_path / "g").write_text("two")
        os.utime(tmp_path / "g", ns=(1_000, 1_000))
        (tmp_path / "g").replace(path)
    else:
        path.touch()
    second = FileHashes({"f": (first.seen["f"][0], "remembered")}, clock=later)
    after = digest(second, path)
    assert after != "remembered"
    assert (after == before) == (change == "only touched")


def test_file_that_was_just_written_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("one")
    hashes = FileHashes()
    digest(hashes, path)
    assert hashes.seen == {}


SECRET = ["xylophone", "quetzalcoatl", "zeppelin", "jabberwocky", "ornithopter"]
TRACES = [word[2:-2].encode() for word in SECRET]  # full text shortens words that begin or end alike


def traces(workspace: Workspace) -> set[str]:
    return {
        path.name
        for path in (workspace.root / ".openbook").rglob("*")
        if path.is_file() and any(trace in path.read_bytes() for trace in TRACES)
    }


@pytest.mark.parametrize("how", ["deleted", "changed", "among many"])
def test_deleted_words_are_in_no_file(workspace: Workspace, how: str) -> None:
    folder = workspace.root / "documents"
    for number in range(300 if how == "among many" else 2):
        (folder / f"{number}.md").write_text(text(number))
    (folder / "secret.md").write_text(f"# {SECRET[0]}\n\n## {SECRET[1]}\n\n{' '.join(SECRET)}\n")
    run(workspace)
    assert "index.sqlite" in traces(workspace)
    if how == "changed":
        (folder / "secret.md").write_text("# Nothing\n\nNothing.\n")
    else:
        (folder / "secret.md").unlink()
    run(workspace)
    assert traces(workspace) == set()
    verify(workspace)


def test_deleted_words_stay_only_as_long_as_a_reader_of_the_old_generation(workspace: Workspace) -> None:
    folder = workspace.root / "documents"
    (folder / "0.md").write_text(text(0))
    (folder / "secret.md").write_text(f"# Secret\n\n{' '.join(SECRET)}\n")
    run(workspace, HashEncoder())
    index = Index.open(workspace, HashEncoder())
    held = index.retriever()
    (folder / "secret.md").unlink()
    run(workspace, HashEncoder())
    assert held.search(["zeppelin"], 1)[0][0].chunk.document_id == "secret.md"
    assert [hit.chunk.document_id for hit in index.retriever().search(["zeppelin"], 1)[0]] == ["0.md"]
    del held
    run(workspace, HashEncoder())
    assert traces(workspace) == set()


def test_vectors_of_an_interrupted_build_are_dropped_if_their_documents_vanish(workspace: Workspace) -> None:
    class Interrupted(HashEncoder):
        def encode_passages(self, passages):  # type: ignore[no-untyped-def]  # as its parent's
            if self.encoded:
                raise KeyboardInterrupt
            return super().encode_passages(passages)

    folder = workspace.root / "documents"
    (folder / "0.md").write_text(text(0))
    run(workspace)
    for number in range(1, 200):
        (folder / f"{number}.md").write_text(text(number))
    with pytest.raises(KeyboardInterrupt):
        run(workspace, Interrupted(dim=8))
    for number in range(2, 200):
        (folder / f"{number}.md").unlink()
    assert run(workspace).chunks_embedded == 0  # those of 1.md were kept
    assert verify(workspace).chunks == 4  # which also finds vectors that nothing needs
