"""The learning rate of every step: for facts, then for reading, a linear warm-up and the schedule asked for."""

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

    def __init__(self, optimizer: Optimizer, facts: int, reading: int, settings: TuneConfig) -> None:
        """For so many steps on facts, followed by so many on reading."""
        self._steps_on_facts = facts
        self._for_facts = _Course(optimizer, facts, settings, settings.learning_rate)
        self._for_reading = _Course(
            optimizer, reading, settings, settings.learning_rate * settings.open_book_rate
        )

    def __call__(self, step: int) -> float:
        """Of step `step`, counted from 0."""
        if step < self._steps_on_facts:
            return self._for_facts(step)
        return self._for_reading(step - self._steps_on_facts)


class _Course:
    """One rise and fall."""

    def __init__(self, optimizer: Optimizer, steps: int, settings: TuneConfig, peak: float) -> None:
        self._peak = peak
        self._warm = max(1, round(steps * settings.warmup))
        least = {"min_lr_rate": _LEAST} if settings.schedule is Schedule.COSINE else None
        name = _OF_TRANSFORMERS[settings.schedule]
        end = max(steps, self._warm + 1)
        self._factor = get_scheduler(name, optimizer, self._warm, end, least).lr_lambdas[0]

    def __call__(self, step: int) -> float:
        """Never nothing, where transformers' warm-up starts with a lost step."""
        return self._peak * float(self._factor(step if step >= self._warm else step + 1))
