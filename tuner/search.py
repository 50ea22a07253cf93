"""`openbook tune --search N`: settings tried one after another, judged by their dev score."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.files import hash_json
from tuner.base_model import BaseModel
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import LEARNING_RATES, Method, TuneConfig
from tuner.dev import DevScorer
from tuner.material import Material
from tuner.methods import MethodError
from tuner.recipes import RecipeError
from tuner.train import TrainingDivergedError, train

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

log = logging.getLogger("openbook.tuner")

_RANKED = (Method.LORA, Method.DORA, Method.RSLORA, Method.PISSA)
_STARTUP_TRIALS = 4
"""Trials before any is stopped early by comparison."""


class SearchError(RuntimeError):
    """A search that cannot be run or has found nothing; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best trial, all counts, and how much of the variance of the score each setting explains."""

    settings: dict[str, Any]
    score: float
    complete: int
    pruned: int
    failed: int
    importance: dict[str, float]

    def describe(self) -> str:
        """The settings as lines for openbook.toml, and what they rest on."""
        lines = [f"best dev score {self.score:.4f} of {self.complete} whole trials"]
        lines[0] += f" ({self.pruned} stopped early, {self.failed} failed); in openbook.toml:"
        lines += ["[tune]", *(f"{key} = {_toml(value)}" for key, value in self.settings.items())]
        if self.importance:
            shares = ", ".join(f"{key} {share:.0%}" for key, share in self.importance.items())
            lines.append(f"importance: {shares}")
        return "\n".join(lines)


def search_settings(
    base: BaseModel, material: Material, settings: TuneConfig, scorer: DevScorer, trials: int, folder: Path
) -> Found:
    """Try settings until `trials` are done, counting those of earlier calls on the same inputs in `folder`.

    Trials worse than the median at the same dev check are stopped. Nothing is registered. Raises SearchError.
    """
    optuna = _optuna()
    folder.mkdir(parents=True, exist_ok=True)
    name = _study_name(base, material, settings, scorer.identity)
    study = _open_study(optuna, folder / "trials.sqlite", name, settings.seed)
    done = _count(study, "COMPLETE") + _count(study, "PRUNED")
    if trials > done and not _was_tried(study, _given(settings)):
        study.enqueue_trial(_given(settings))

    def objective(trial: Trial) -> float:
        tried = _suggest(trial, settings)
        # A killed trial's may be of these very rows, yet scored by other dev questions, and counts its checks anew.
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        try:
            plan = plan_batches(material.rows(base.tokenizer, tried), tried)
            checkpoints = CheckpointStore(folder / "checkpoint")
            trained = train(base, plan, tried, _Pruning(optuna, trial, scorer), checkpoints)
        except (TrainingDivergedError, RecipeError, MethodError) as error:
            if isinstance(error, MethodError) and tried.rank == settings.rank:
                raise  # not the drawn rank's fault
            log.info("trial %d: %s", trial.number, error)
            raise optuna.TrialPruned from error
        finally:
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        return trained.dev_scores["score"]

    study.optimize(objective, n_trials=max(0, trials - done))
    if not _count(study, "COMPLETE"):
        raise SearchError(
            f"none of {trials} trials was trained to the end; lower tune.learning_rate and search again"
        )
    return Found(
        settings=dict(study.best_trial.params),
        score=float(study.best_value),
        complete=_count(study, "COMPLETE"),
        pruned=_count(study, "PRUNED"),
        failed=_count(study, "FAIL"),
        importance=_importance(optuna, study),
    )


class _Pruning:
    """Dev scores that also tell the study, which may stop the trial."""

    def __init__(self, optuna: Any, trial: Trial, scores: Callable[[Any], dict[str, float]]) -> None:
        self._optuna, self._trial, self._scores = optuna, trial, scores
        self._checks = 0

    def __call__(self, model: Any) -> dict[str, float]:
        scores = self._scores(model)
        self._checks += 1
        self._trial.report(scores["score"], self._checks)
        if self._trial.should_prune():
            raise self._optuna.TrialPruned
        return scores


def _suggest(trial: Trial, settings: TuneConfig) -> TuneConfig:
    """The settings with those that matter most drawn anew; the rest, the seed included, as given.

    Every range holds the given value too: it is to be tried first, and a search around it may be worth most.
    """
    usual = LEARNING_RATES[settings.method]

    def number(name: str, least: float, most: float, log: bool = False) -> float:
        given = getattr(settings, name)
        return trial.suggest_float(name, min(least, given), max(most, given), log=log)

    def count(name: str, least: int, most: int) -> int:
        given = getattr(settings, name)
        return trial.suggest_int(name, min(least, given), max(most, given))

    drawn: dict[str, Any] = {"learning_rate": number("learning_rate", usual / 8, usual * 4, log=True)}
    if settings.method in _RANKED:
        drawn["rank"] = trial.suggest_categorical("rank", _ranks(settings))
    if settings.recipe != "open-book":
        drawn["document_passes"] = count("document_passes", 0, 6)
        drawn["closed_book_passes"] = count("closed_book_passes", 1, 8)
    if settings.recipe != "closed-book":
        drawn["open_book_passes"] = count("open_book_passes", 1, 4)
        drawn["gold_present"] = number("gold_present", 0.6, 1.0)
    if settings.recipe == "mixed":
        drawn["open_book_rate"] = number("open_book_rate", 0.05, 1.0, log=True)
    return settings.model_copy(update=drawn)


def _given(settings: TuneConfig) -> dict[str, Any]:
    """The user's own settings of what is drawn, tried first."""
    keys = [
        "learning_rate",
        "rank",
        "document_passes",
        "closed_book_passes",
        "open_book_passes",
        "gold_present",
        *(["open_book_rate"] if settings.recipe == "mixed" else []),
    ]
    return {key: getattr(settings, key) for key in keys}


def _was_tried(study: Study, given: dict[str, Any]) -> bool:
    """Whether these settings were tried to an end, or wait to be; an interrupted trial does not count."""
    for trial in study.trials:
        tried = trial.system_attrs.get("fixed_params", {}) if trial.state.name == "WAITING" else trial.params
        if trial.state.name in ("COMPLETE", "PRUNED", "WAITING") and tried and tried.items() <= given.items():
            return True
    return False


def _ranks(settings: TuneConfig) -> list[int]:
    return sorted({8, 16, 32, 64, settings.rank})


def _study_name(base: BaseModel, material: Material, settings: TuneConfig, judge: str) -> str:
    """Trials are comparable only over the same model, chunks, questions, method, kind of recipe and dev scores."""
    passages = [[p.document_id, p.title, p.text] for p in material.passages]
    questions = [[q.id, q.text, list(q.answers)] for q in material.questions]
    fixed = settings.model_dump(mode="json", exclude={*_given(settings), "track"})
    given = [passages, questions, list(material.replay), fixed, _ranks(settings), *material.ranking]
    return hash_json([base.hash, str(base.dtype), judge, *given])


def _open_study(optuna: Any, file: Path, name: str, seed: int) -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study: Study = optuna.create_study(
        storage=f"sqlite:///{file}",
        study_name=name,
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
    )
    # A killed process leaves its trial running for ever.
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    study.sampler = optuna.samplers.TPESampler(
        seed=(seed + len(study.trials)) % 2**32, n_startup_trials=_STARTUP_TRIALS
    )
    return study


def _count(study: Study, state: str) -> int:
    return sum(trial.state.name == state for trial in study.trials)


def _importance(optuna: Any, study: Study) -> dict[str, float]:
    if _count(study, "COMPLETE") < _STARTUP_TRIALS:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return {
            k: float(v)
            for k, v in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
        }


def _toml(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SearchError("--search needs Optuna; run `pip install 'openbook[search]'`") from error
    return optuna
