"""Dose and response: dev scores against the number of phrasings of each fact, for the documents of a workspace.

    openbook init my-dose --sample          # or a workspace of your own
    python benchmarks/dose.py my-dose [--doses 0 1 2 4 8]
    openbook tune -w my-dose                # the adapter of the routes, if there is none yet
    openbook eval -w my-dose                # its report shows the curve

A dose of n reads every chunk n times (as written or with its sentences in another order) and asks every train question
n times without passages; everything else stays as the workspace has it. With `[tune.synthesis]` a dose is also the
number of paraphrases, questions and statements written for each. Scored is dev, never test: the curve is there to
choose from. The adapters are kept as `dose-n`, so that an interrupted run goes on; routes do not use them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from eval.dose import Dose, DoseProvenance, DoseResult, advice
from eval.markdown import aligned_table
from indexer.config import Workspace
from indexer.files import hash_json, write_atomically
from settings import Settings, load_settings
from tuner.registry import Manifest

OPENBOOK = Path(sys.executable).with_name("openbook")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path, help="a folder with openbook.toml, documents and questions")
    parser.add_argument("--doses", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace.resolve())
    settings = load_settings(workspace)
    subprocess.run([OPENBOOK, "index", "-w", workspace.root], check=True)
    trained = {dose: train(workspace, settings, dose) for dose in sorted(set(arguments.doses))}
    result = dose_result(trained, settings.eval.primary_metric)
    print(table(result))
    print(f"{result.sentence} Kept in {keep(result, workspace)}; `openbook eval` shows it.")


def train(workspace: Workspace, settings: Settings, dose: int) -> Manifest:
    changed = {
        "OPENBOOK_TUNE__ADAPTER": f"dose-{dose}",
        "OPENBOOK_TUNE__DOCUMENT_PASSES": str(dose),
        "OPENBOOK_TUNE__CLOSED_BOOK_PASSES": str(dose),
    }
    if settings.tune.synthesis is not None:
        for kind in ("PARAPHRASES", "QUESTIONS", "STATEMENTS"):
            changed[f"OPENBOOK_TUNE__SYNTHESIS__{kind}"] = str(dose)
    done = subprocess.run(
        [OPENBOOK, "tune", "--no-gates", "--json", "-w", workspace.root],
        env={**os.environ, **changed},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Manifest.model_validate(json.loads(done.stdout.splitlines()[-1])["manifest"])


def dose_result(trained: Mapping[int, Manifest], metric: str) -> DoseResult:
    """`trained` maps doses, ascending, to adapters that differ in nothing else."""
    doses = [
        Dose(
            phrasings=dose,
            scores={name: score for name, score in manifest.dev_scores.items() if name != "score"},
            tokens=manifest.tokens,
            seconds=manifest.seconds,
        )
        for dose, manifest in trained.items()
    ]
    facts = next(iter(trained.values()))
    provenance = DoseProvenance(
        corpus=facts.corpus_hash, base_model=facts.base_model, base_model_hash=facts.base_model_hash
    )
    return DoseResult(sentence=advice(doses), metric=metric, doses=doses, provenance=provenance)


def keep(result: DoseResult, workspace: Workspace) -> Path:
    """Write `dose.json` beside the workspace's evaluations, whose reports look for it there."""
    path = workspace.evaluations / f"dose-{hash_json(result.model_dump(mode='json'))[:12]}" / "dose.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, result.model_dump_json(indent=2) + "\n")
    return path


def table(result: DoseResult) -> str:
    names = list(result.doses[0].scores)
    rows = [
        [
            str(dose.phrasings),
            *(f"{dose.scores[name]:.3f}" for name in names),
            f"{dose.tokens:,}",
            f"{dose.seconds:.0f}",
        ]
        for dose in result.doses
    ]
    return aligned_table(["phrasings", *names, "tokens", "s"], rows)


if __name__ == "__main__":
    main()
