"""Dose and response: the score of the routes with an adapter against the number of phrasings of each fact.

    python benchmarks/dose.py [--data FOLDER] [--doses 0 1 2 4 8] [--workspace FOLDER] [--out FILE]

A dose of n reads every chunk n times (as written or with its sentences in another order) and asks every train question
n times without passages; everything else stays as it is. With `[tune.synthesis]` in the `--config`, a dose is also the
number of paraphrases, questions and statements written for each. Scored is dev, never test: the curve is there to
choose from. A workspace given by name keeps its adapters, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SKEIN = Path(__file__).parents[1] / "examples" / "skein"
OPENBOOK = Path(sys.executable).with_name("openbook")
_WIDTH, _HEIGHT, _MARGIN = 480, 300, 44


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=SKEIN, help="documents (folder or .jsonl) and questions.jsonl"
    )
    parser.add_argument("--doses", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--config", type=Path, help="a .toml with more settings, such as [tune.synthesis]")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument(
        "--out", type=Path, help="JSON file for the figures; an SVG of the curve is put beside it"
    )
    arguments = parser.parse_args()
    extra = arguments.config.read_text() if arguments.config else ""
    with tempfile.TemporaryDirectory() as temporary:
        workspace = arguments.workspace or Path(temporary)
        prepare(workspace, arguments.data.resolve(), extra)
        subprocess.run([OPENBOOK, "index", "-w", workspace], check=True)
        measured = {dose: train(workspace, dose, "[tune.synthesis]" in extra) for dose in arguments.doses}
    report(measured)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        figures = {"data": arguments.data.name, "doses": measured}
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
        arguments.out.with_suffix(".svg").write_text(plot(measured))


def prepare(workspace: Path, data: Path, extra: str) -> None:
    workspace.mkdir(parents=True, exist_ok=True)
    documents = next(path for path in (data / "documents", data / "documents.jsonl") if path.exists())
    questions = data / "questions.jsonl"
    (workspace / "openbook.toml").write_text(
        f"[index]\ndocuments = {str(documents)!r}\n[eval]\nquestions = {str(questions)!r}\n{extra}\n"
    )


def train(workspace: Path, dose: int, synthesises: bool) -> dict[str, float]:
    settings = {
        "OPENBOOK_TUNE__ADAPTER": f"dose-{dose}",
        "OPENBOOK_TUNE__DOCUMENT_PASSES": str(dose),
        "OPENBOOK_TUNE__CLOSED_BOOK_PASSES": str(dose),
    }
    if synthesises:
        for kind in ("PARAPHRASES", "QUESTIONS", "STATEMENTS"):
            settings[f"OPENBOOK_TUNE__SYNTHESIS__{kind}"] = str(dose)
    done = subprocess.run(
        [OPENBOOK, "tune", "--no-gates", "--json", "-w", workspace],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    manifest = json.loads(done.stdout.splitlines()[-1])["manifest"]
    return {**manifest["dev_scores"], "tokens": manifest["tokens"], "seconds": manifest["seconds"]}


def report(measured: dict[int, dict[str, float]]) -> None:
    names = [name for name in next(iter(measured.values())) if name not in ("tokens", "seconds")]
    print(f"| phrasings | {' | '.join(names)} | tokens | s |\n|---|{'---|' * len(names)}---|---|")
    for dose, m in measured.items():
        scores = " | ".join(f"{m[name]:.3f}" for name in names)
        print(f"| {dose} | {scores} | {m['tokens']:,.0f} | {m['seconds']:.0f} |")


def plot(measured: dict[int, dict[str, float]]) -> str:
    """One line for each dev score, as SVG."""
    doses = sorted(measured)
    names = [name for name in measured[doses[0]] if name not in ("tokens", "seconds", "score")]
    top = max(0.01, *(measured[dose][name] for dose in doses for name in names)) * 1.1

    def x(dose: int) -> float:
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * (dose - doses[0]) / max(1, doses[-1] - doses[0])

    def y(score: float) -> float:
        return _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * score / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<path d="M{_MARGIN} {_MARGIN}V{_HEIGHT - _MARGIN}H{_WIDTH - _MARGIN}" fill="none" stroke="#888"/>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">phrasings of each fact</text>',
        f'<text x="{_MARGIN}" y="{_MARGIN - 12}">dev score</text>',
        *(
            f'<text x="{x(d):.0f}" y="{_HEIGHT - _MARGIN + 16}" text-anchor="middle">{d}</text>'
            for d in doses
        ),
        *(f'<text x="{_MARGIN - 6}" y="{y(v):.0f}" text-anchor="end">{v:.2f}</text>' for v in (0, top / 1.1)),
    ]
    for name, colour in zip(names, ("#06c", "#c50", "#080", "#808"), strict=False):
        points = " ".join(f"{x(d):.1f},{y(measured[d][name]):.1f}" for d in doses)
        end = y(measured[doses[-1]][name]) - 6
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{_WIDTH - _MARGIN}" y="{end:.0f}" text-anchor="end" fill="{colour}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
