"""The course of training in an experiment tracker: losses, learning rates and dev scores; never text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tuner.config import Tracker, TuneConfig

_PROJECT = "openbook"

Log = Callable[[int, Mapping[str, float]], None]
"""`log(step, figures)`: what was measured after that many steps."""


class TrackerError(ValueError):
    """A tracker that is not installed; the message says how to install it."""


@contextmanager
def tracking(settings: TuneConfig, run: str) -> Iterator[Log]:
    """A run named `run` of the project `openbook`, in the tracker that the settings name. Raises TrackerError.

    Where it goes is the tracker's own affair (its environment variables, its files).
    """
    match settings.track:
        case Tracker.NONE:
            yield lambda _step, _figures: None
        case Tracker.TRACKIO:
            trackio = _module(settings.track)
            trackio.init(project=_PROJECT, name=run, resume="allow", config=_shown(settings))
            try:
                yield lambda step, figures: trackio.log(dict(figures), step=step)
            finally:
                trackio.finish()
        case Tracker.WANDB:
            wandb = _module(settings.track)
            quiet = wandb.Settings(console="off", disable_git=True, disable_code=True)
            started = wandb.init(
                project=_PROJECT, name=run, id=run, resume="allow", config=_shown(settings), settings=quiet
            )
            try:
                yield lambda step, figures: started.log(dict(figures), step=step)
            finally:
                started.finish()
        case Tracker.MLFLOW:
            mlflow = _module(settings.track)
            mlflow.set_experiment(_PROJECT)
            with mlflow.start_run(run_name=run):
                mlflow.log_params(_shown(settings))
                yield lambda step, figures: mlflow.log_metrics(dict(figures), step=step)


def _shown(settings: TuneConfig) -> dict[str, Any]:
    """Settings that are numbers or one of a few words: no paths, no addresses."""
    given = settings.model_dump(mode="json")
    words = ("adapter", "recipe", "method", "schedule")
    return {key: value for key, value in given.items() if key in words or isinstance(value, (int, float))}


def _module(tracker: Tracker) -> Any:
    try:
        return import_module(tracker)
    except ImportError as error:
        raise TrackerError(
            f'tune.track = "{tracker}" needs a package that is not here; run `pip install {tracker}`, or '
            'set it to "none"'
        ) from error
