"""The four routes on squad-xquad-en (48 Wikipedia articles, 263 test questions): index, tune, eval.

    python benchmarks/squad.py [--data ../shared/data/squad-xquad-en] [--workspace FOLDER]

A workspace given by name keeps its results, so that an interrupted run goes on; otherwise it is a temporary folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """\
[index]
documents = {documents!r}
[tune]
document_passes = 3
closed_book_passes = 1
open_book_passes = 1
[eval]
questions = {questions!r}
"""
"""Fewer passes than the default: the corpus is larger and there are three times as many questions."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/squad-xquad-en"))
    parser.add_argument("--workspace", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "documents.jsonl").is_file():
        print(f"{arguments.data} has no documents.jsonl; name the folder with --data. Skipped.")
        return
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments.data.resolve(), arguments.workspace or Path(temporary))


def run(data: Path, workspace: Path) -> None:
    """Every step as a user would run it, with its wall-clock seconds."""
    workspace.mkdir(parents=True, exist_ok=True)
    config = workspace / "openbook.toml"
    if not config.exists():
        config.write_text(
            CONFIG.format(documents=str(data / "documents.jsonl"), questions=str(data / "questions.jsonl"))
        )
    openbook = Path(sys.executable).with_name("openbook")
    # The evaluation compares the routes anyway, so the adapter need not pass on dev first.
    for command in (["index"], ["tune", "--no-gates"], ["eval"]):
        started = time.monotonic()
        subprocess.run([openbook, *command, "--workspace", workspace], check=True)
        print(f"[{command[0]}: {time.monotonic() - started:.0f} s]", flush=True)


if __name__ == "__main__":
    main()
