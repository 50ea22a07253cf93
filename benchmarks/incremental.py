"""What a sync costs when one of 2,000 documents has changed, or none, beside the full build.

`python benchmarks/incremental.py [--documents 2000]` prints a Markdown table; it takes as long as the build.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

from indexer.config import Workspace
from indexer.encoding import Encoder, load_encoder
from indexer.sync import SyncReport, sync

WORDS = [f"part{number}" for number in range(400)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--encoder", default="bundled:all-minilm-l6-v2")
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.encoder)
    root = Path(tempfile.mkdtemp(prefix="openbook-incremental-"))
    try:
        measure(Workspace(root), encoder, arguments.documents)
    finally:
        shutil.rmtree(root)


def measure(workspace: Workspace, encoder: Encoder, documents: int) -> None:
    folder = workspace.root / "documents"
    folder.mkdir()
    generator = random.Random(0)
    for number in range(documents):
        (folder / f"{number}.md").write_text(document(number, generator))

    def run() -> SyncReport:
        return sync(workspace, folder, encoder, 160)

    built = run()
    time.sleep(2.5)  # the clock's ticks within which a file may change unseen
    run()
    nothing = run()
    changed = []
    for number in (documents // 7, documents // 3, documents // 2):
        path = folder / f"{number}.md"
        path.write_text(path.read_text().replace("## Care\n\n", "## Care\n\nEverything is different now. "))
        changed.append(run())
    one = sorted(changed, key=lambda report: report.seconds)[1]

    print(
        f"{documents} documents, {built.chunks} chunks; encoder {encoder.id}; SQLite {sqlite3.sqlite_version}\n"
    )
    print("| | seconds | chunks embedded | share of the build |")
    print("|---|---|---|---|")
    rows = {
        "built from nothing": built,
        "one document changed (median of 3)": one,
        "nothing changed": nothing,
    }
    for name, report in rows.items():
        share = report.seconds / built.seconds
        print(f"| {name} | {report.seconds:.3f} | {report.chunks_embedded} | {share:.4f} |")


def document(number: int, generator: random.Random) -> str:
    def paragraph() -> str:
        sentences = (" ".join(generator.choices(WORDS, k=12)) for _ in range(2))
        return " ".join(f"{sentence.capitalize()}." for sentence in sentences)

    sections = "".join(f"## {name}\n\n{paragraph()}\n\n" for name in ("Use", "Parts", "Care"))
    return f"# Machine {number}\n\n{sections}"


if __name__ == "__main__":
    main()
