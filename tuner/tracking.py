"""The course of training in an experiment tracker: losses, learning rates and dev scores; never text."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from tuner.config import Tracker, TuneConfig

log = logging.getLogger("openbook.tuner")

_PROJECT = "openbook"

Log = Callable[[int, Mapping[str, float]], None]
"""`log(step, figures)`: what was measured after that many steps."""


class TrackerError(ValueError):
    """A tracker that is not installed, or where no run can be opened; the message says what to do."""


def require_tracker(settings: TuneConfig) -> None:
    """Raise TrackerError if the tracker that the settings name is not installed; it is not imported.

    Of the processes that torchrun starts only the first needs it.
    """
    wanted = settings.track is not Tracker.NONE and os.environ.get("RANK", "0") == "0"
    if wanted and find_spec(settings.track) is None:
        raise _not_installed(settings.track)


@contextmanager
def tracking(settings: TuneConfig, run: str) -> Iterator[Log]:
    """A run named `run` of the project `openbook` in the tracker that the settings name; continued if it is there.

    Where it goes is the tracker's own affair (its environment variables, its files). One that fails later is left with
    a warning, for training is worth more. Raises TrackerError.
    """
    if settings.track is Tracker.NONE:
        yield lambda _step, _figures: None
        return
    opened = _open(settings, run)
    failed = False

    def tell(step: int, figures: Mapping[str, float]) -> None:
        nonlocal failed
        if not failed:
            failed = not _done(settings.track, lambda: opened.log(step, figures))

    ended_well = False
    try:
        yield tell
        ended_well = True
    finally:
        _done(settings.track, lambda: opened.finish(ended_well))


class _Opened(NamedTuple):
    log: Log
    finish: Callable[[bool], None]
    """Told whether training came to its end."""


def _open(settings: TuneConfig, run: str) -> _Opened:
    openers = {Tracker.TRACKIO: _trackio, Tracker.WANDB: _wandb, Tracker.MLFLOW: _mlflow}
    try:
        with _speaking_aside():
            return openers[settings.track](run, _shown(settings))
    except Exception as error:  # each package has its own
        if isinstance(error, ModuleNotFoundError) and error.name == settings.track:
            raise _not_installed(settings.track) from error
        raise TrackerError(
            f'tune.track = "{settings.track}": no run can be opened ({_line(error)}); set it up by its own environment '
            'variables, or set it to "none"'
        ) from error


def _not_installed(tracker: Tracker) -> TrackerError:
    return TrackerError(
        f'tune.track = "{tracker}" needs a package that is not here; run `pip install {tracker}`, or set it to "none"'
    )


def _trackio(run: str, shown: dict[str, Any]) -> _Opened:
    trackio = import_module("trackio")
    trackio.init(
        project=_PROJECT, name=run, resume="allow", config=shown, auto_log_cpu=False, auto_log_gpu=False
    )
    return _Opened(
        lambda step, figures: trackio.log(dict(figures), step=step), lambda _ended_well: trackio.finish()
    )


def _wandb(run: str, shown: dict[str, Any]) -> _Opened:
    wandb = import_module("wandb")
    quiet = wandb.Settings(
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,  # the command line, user and machine
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    started = wandb.init(project=_PROJECT, name=run, id=run, resume="allow", config=shown, settings=quiet)
    return _Opened(
        lambda step, figures: started.log(dict(figures), step=step),
        lambda ended_well: started.finish(exit_code=0 if ended_well else 1),
    )


def _mlflow(run: str, shown: dict[str, Any]) -> _Opened:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
    mlflow = import_module("mlflow")
    experiment = mlflow.set_experiment(_PROJECT).experiment_id
    found = mlflow.search_runs(
        [experiment], f"attributes.run_name = '{run}'", max_results=1, output_format="list"
    )
    if found:
        mlflow.start_run(run_id=found[0].info.run_id)
    else:
        mlflow.start_run(run_name=run, tags={"mlflow.source.name": "openbook"})  # else it is a path
        try:
            mlflow.log_params(shown)
        except Exception:
            mlflow.end_run("FAILED")  # else it stays this process's run, and the next one cannot be started
            raise
    return _Opened(
        lambda step, figures: mlflow.log_metrics(dict(figures), step=step),
        lambda ended_well: mlflow.end_run("FINISHED" if ended_well else "KILLED"),
    )


def _shown(settings: TuneConfig) -> dict[str, Any]:
    """Settings that are numbers or one of a few words: no paths, no addresses."""
    given = settings.model_dump(mode="json")
    words = ("adapter", "recipe", "method", "schedule")
    return {key: value for key, value in given.items() if key in words or isinstance(value, (int, float))}


def _done(tracker: Tracker, act: Callable[[], None]) -> bool:
    """Whether the tracker took it; if not, a warning says so."""
    try:
        with _speaking_aside():
            act()
    except Exception as error:
        log.warning("%s failed (%s); training goes on without it", tracker, _line(error))
        return False
    return True


def _speaking_aside() -> redirect_stdout[Any]:
    """What a tracker says is not the command's output, which `--json` promises to be one object."""
    return redirect_stdout(sys.stderr)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")[:300]
