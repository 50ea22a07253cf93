"""Dose and response: dev scores against the number of phrasings of each fact, for the documents of a workspace.

    openbook init my-dose --sample          # or a workspace of your own
    python benchmarks/dose.py my-dose [--doses 0 1 2 4 8]
    openbook tune -w my-dose                # the adapter of the routes, if there is none yet
    openbook eval -w my-dose                # its report shows the curve

A dose of n reads every chunk n times (as written or with its sentences in another order) and asks every train question
n times without passages; everything else stays as the workspace has it. With `[tune.synthesis]` a dose is also the
number of paraphrases, questions and statements written for each, 20 at most. Scored is dev, never test: the curve is
there to choose from. The adapters are kept as `dose-n`, so that an interrupted run goes on; routes do not use them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from eval.dose import Dose, DoseProvenance, DoseResult, advice
from eval.markdown import aligned_table
from indexer.config import Workspace
from indexer.files import hash_json, write_atomically
from settings import load_settings
from tuner.config import TuneConfig
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
    doses = sorted(set(arguments.doses))
    if (wrong := refusal(settings.tune, doses)) is not None:
        parser.error(wrong)
    subprocess.run([OPENBOOK, "index", "-w", workspace.root], check=True)
    trained = {dose: train(workspace, settings.tune, dose) for dose in doses}
    result = dose_result(trained, settings.eval.primary_metric)
    print(table(result))
    print(f"{result.sentence} Kept in {keep(result, workspace)}; `openbook eval` shows it.")


def refusal(tune: TuneConfig, doses: Sequence[int]) -> str | None:
    """What is wrong with the first dose that `openbook tune` would not take; None if it takes all."""
    for dose in doses:
        given = tune.model_dump()
        for (*section, key), value in dosed(tune, dose).items():
            (given[section[0]] if section else given)[key] = value
        try:
            TuneConfig.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(("tune", *map(str, first["loc"])))
            return f"argument --doses: {dose} cannot be trained: {key}: {first['msg']}"
    return None


def dosed(tune: TuneConfig, dose: int) -> dict[tuple[str, ...], int | str]:
    """The keys of `[tune]` that make up a dose, with their values."""
    changed: dict[tuple[str, ...], int | str] = {("adapter",): f"dose-{dose}"}
    changed |= {(key,): dose for key in ("document_passes", "closed_book_passes")}
    if tune.synthesis is not None:
        changed |= {("synthesis", key): dose for key in ("paraphrases", "questions", "statements")}
    return changed


def train(workspace: Workspace, tune: TuneConfig, dose: int) -> Manifest:
    changed = {
        "__".join(("OPENBOOK_TUNE", *key)).upper(): str(value) for key, value in dosed(tune, dose).items()
    }
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
