"""The learning rate of every step: a linear warm-up, then the schedule that was asked for."""

from __future__ import annotations

from torch.optim import Optimizer
from transformers import get_scheduler

from tuner.config import Schedule, TuneConfig

_LEAST = 0.1
_OF_TRANSFORMERS = {
    Schedule.COSINE: "cosine_with_min_lr",
    Schedule.LINEAR: "linear",
    Schedule.CONSTANT: "constant_with_warmup",
}


class LearningRates:
    """A pure function of the step, so that a run that goes on needs to keep nothing."""

    def __init__(self, optimizer: Optimizer, steps: int, settings: TuneConfig) -> None:
        self._peak = settings.learning_rate
        self._warm = max(1, round(steps * settings.warmup))
        least = {"min_lr_rate": _LEAST} if settings.schedule is Schedule.COSINE else None
        name = _OF_TRANSFORMERS[settings.schedule]
        end = max(steps, self._warm + 1)
        self._factor = get_scheduler(name, optimizer, self._warm, end, least).lr_lambdas[0]

    def __call__(self, step: int) -> float:
        """Of step `step`, counted from 0; never nothing, where transformers' warm-up starts with a lost step."""
        return self._peak * float(self._factor(step if step >= self._warm else step + 1))
