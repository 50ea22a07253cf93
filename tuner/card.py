"""The files beside an adapter's weights that people read: a model card and the training curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.train import Trained


def write_card(
    folder: Path, name: str, inputs: Mapping[str, Any], rows: Mapping[str, int], trained: Trained
) -> None:
    """Write `README.md` (PEFT's own would list next to nothing) and `curve.json` into an adapter's folder."""
    curve = [{"step": h.step, "tokens": h.tokens, "loss": h.loss, "dev": h.scores} for h in trained.history]
    (folder / "curve.json").write_text(json.dumps(curve, indent=2))
    table = "\n".join(f"| {kind} | {count} |" for kind, count in sorted(rows.items()))
    scores = "\n".join(f"| {metric} | {value:.4f} |" for metric, value in trained.dev_scores.items())
    (folder / "README.md").write_text(
        f"""---
base_model: {inputs["base_model"]}
library_name: peft
---
# {name}

An adapter for `{inputs["base_model"]}` (recipe {inputs["recipe"]}, method {inputs["method"]}), trained by openbook on
one corpus (`{inputs["corpus_hash"][:12]}`) and meant for questions about that corpus only.

| rows by kind | |
|---|---|
{table}

{trained.tokens:,} tokens in {trained.steps} steps and {trained.seconds:.0f} seconds, seed {inputs["seed"]}.
The weights are those with the best score on the dev questions:

| dev | |
|---|---|
{scores}

The course of training is in `curve.json`, everything needed to repeat it in `manifest.json`.
"""
    )
