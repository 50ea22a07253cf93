"""How long a run will take and how much memory: measured on a few of its steps."""

from __future__ import annotations

import resource
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tuner.base_model import BaseModel
from tuner.batches import Plan
from tuner.checkpoint import CheckpointStore
from tuner.config import Tracker, TuneConfig
from tuner.train import train

_STEPS = 6


@dataclass(frozen=True, slots=True)
class Probe:
    """What a few steps took; `seconds` is for the whole plan, without the dev checks."""

    steps: int
    tokens_per_second: float
    seconds: float
    trained_parameters: int
    peak_bytes: int

    def describe(self) -> str:
        """One line."""
        minutes, seconds = divmod(round(self.seconds), 60)
        return (
            f"  {self.steps} steps tried: {self.tokens_per_second:.0f} tokens/s, so about {minutes} min {seconds} s "
            f"and the dev checks; {self.trained_parameters:,} trained parameters; peak memory "
            f"{self.peak_bytes / 2**30:.1f} GiB"
        )


def probe(base: BaseModel, plan: Plan, settings: TuneConfig) -> Probe:
    """Train on the largest batch and some spread over the plan, and throw the result away."""
    largest = max(plan.batches, key=lambda batch: len(batch) * max(map(len, batch)))
    last, few = len(plan.batches) - 1, min(_STEPS - 1, len(plan.batches))
    spread = [plan.batches[round(i * last / max(few - 1, 1))] for i in range(few)]
    tried = Plan([largest, *spread])
    with tempfile.TemporaryDirectory() as folder:
        once = settings.model_copy(update={"dev_checks": 1, "track": Tracker.NONE})
        trained = train(base, tried, once, _no_scores, CheckpointStore(Path(folder) / "probe"))
    speed = trained.tokens / max(trained.seconds, 1e-9)
    return Probe(len(tried.batches), speed, plan.tokens / speed, trained.parameters, _peak_bytes(base))


def _no_scores(_model: Any) -> dict[str, float]:
    return {"score": 0.0}


def _peak_bytes(base: BaseModel) -> int:
    """The most that this process has held, on the GPU if that is where the model is."""
    if base.device.type == "cuda":
        return torch.cuda.max_memory_allocated(base.device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
