"""The four routes on a public corpus, from its documents to the verdict: index, tune, eval, as a user would run them.

    python benchmarks/corpora.py squad-xquad-en     # 48 Wikipedia articles, 263 test questions with short answers
    python benchmarks/corpora.py tofu-authors       # 35 invented authors, 170 test questions answered in sentences
    python benchmarks/corpora.py pubmedqa-mini      # 161 abstracts, 78 test questions: yes, no or maybe

Settings were chosen from train and dev. Train and dev questions that come near a test question are left out (and
counted), since openbook refuses to train on them. `--control FOLDER` adds the closed-book route `control` with another
adapter (`openbook adapters export`), trained by the same recipe on other documents: what `tuned` has above it is
knowledge, the rest is the form of the answers.

A workspace given by name keeps its results, so that an interrupted run goes on; otherwise it is a temporary folder.
Scores, intervals, hashes and the seconds of this call go to `benchmarks/results/CORPUS-seedN.json`; how long training
took in all, over every call, is in its `adapter`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from indexer.config import Workspace
from indexer.corpus import Split
from indexer.files import write_atomically
from indexer.readers import read_questions
from tuner.leakage import without_leaks
from tuner.registry import Registry

OPENBOOK = Path(sys.executable).with_name("openbook")
RESULTS = Path(__file__).parent / "results"

SETTINGS: Mapping[str, str] = {
    "squad-xquad-en": """\
[tune]
document_passes = 4
closed_book_passes = 1
open_book_passes = 2
learning_rate = 1e-3
open_book_rate = 0.4
""",
    "tofu-authors": """\
[tune]
document_passes = 16
closed_book_passes = 4
open_book_passes = 1
learning_rate = 2e-3
open_book_rate = 0.1
[routes.base]
max_new_tokens = 64
[routes.rag]
max_new_tokens = 64
[routes.tuned]
max_new_tokens = 64
[routes.hybrid]
max_new_tokens = 64
""",
    "pubmedqa-mini": """\
[tune]
document_passes = 2
closed_book_passes = 2
open_book_passes = 3
learning_rate = 2e-3
open_book_rate = 0.1
""",
}

CONTROL = """\
[routes.control]
adapter = "control"
"""
CONTRASTS = (("rag", "base"), ("tuned", "base"), ("hybrid", "rag"), ("hybrid", "tuned"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", choices=SETTINGS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="where the corpora are")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--control", type=Path, help="an exported adapter of other documents")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    arguments = parser.parse_args()
    data = arguments.data / arguments.corpus
    if not (data / "documents.jsonl").is_file():
        print(f"{data} has no documents.jsonl; name the folder above it with --data. Skipped.")
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.workspace or Path(temporary)
        run(arguments.corpus, data.resolve(), root.resolve(), arguments.control, arguments.seed)


def run(corpus: str, data: Path, root: Path, control: Path | None, seed: int) -> None:
    """Every step with its wall-clock seconds."""
    prepare(corpus, data, root, control is not None, seed)
    if control is not None and not (Workspace(root).adapters / "control").exists():
        subprocess.run([OPENBOOK, "adapters", "import", control, "--name", "control", "-w", root], check=True)
    seconds = {}
    # The evaluation compares the routes anyway, so the adapter need not pass on dev first.
    for command in (["index"], ["tune", "--no-gates"], ["eval"]):
        started = time.monotonic()
        subprocess.run([OPENBOOK, *command, "--workspace", root], check=True)
        seconds[command[0]] = round(time.monotonic() - started, 1)
        print(f"[{command[0]}: {seconds[command[0]]:.0f} s]", flush=True)
    keep(corpus, Workspace(root), seconds, seed)


def prepare(corpus: str, data: Path, root: Path, with_control: bool, seed: int) -> None:
    """Write openbook.toml, and the questions without those that are too near a test question."""
    root.mkdir(parents=True, exist_ok=True)
    source = data / "questions.jsonl"
    questions = read_questions(source, None)
    others = [question for question in questions if question.split is not Split.TEST]
    _, leaking = without_leaks(others, [question for question in questions if question.split is Split.TEST])
    left_out = {question.id for question in leaking}
    lines = [line for line in source.read_text().split("\n") if line.strip()]
    lines = [line for line in lines if json.loads(line)["id"] not in left_out]
    write_atomically(root / "questions.jsonl", "\n".join(lines) + "\n")
    print(f"{len(left_out)} train and dev questions left out, which come near a test question", flush=True)
    tune, *routes = SETTINGS[corpus].partition("[routes")
    contrasts: Sequence[Sequence[str]] = [*CONTRASTS, *([("tuned", "control")] if with_control else [])]
    sections = [
        f"[index]\ndocuments = {json.dumps(str(data / 'documents.jsonl'))}",
        f"{tune}seed = {seed}",
        f"[eval]\ncontrasts = {json.dumps(contrasts)}",
        "".join(routes),
        CONTROL if with_control else "",
    ]
    write_atomically(root / "openbook.toml", "\n".join(sections))


def keep(corpus: str, workspace: Workspace, seconds: Mapping[str, float], seed: int) -> None:
    """Write what was found to `results`."""
    newest = max(workspace.evaluations.glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    trained = Registry(workspace.adapters).resolve("mixed").manifest
    found = {
        "seconds": seconds,
        "adapter": trained.model_dump(mode="json"),
        "result": json.loads(newest.read_text()),
    }
    path = RESULTS / f"{corpus}-seed{seed}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(found, indent=2) + "\n")
    print(f"kept in {path.relative_to(RESULTS.parent.parent)}")


if __name__ == "__main__":
    main()
