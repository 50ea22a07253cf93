"""What answers cost: measured seconds and tokens times a price table, and when training pays.

A day of a route costs questions x (cost of an answer) + (cost of a training) / (days until it is trained again). A
route that does not retrieve has the documents in its weights, so it is trained again whenever they change; the
adapter of a route that retrieves is kept for `prices.retrain_days`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.config import Prices
from eval.result import BreakEven, CostsResult, RouteCost

CHANGE_DAYS = (1.0, 7.0, 30.0, 90.0, 365.0)
"""Days between changes of the documents for which break-even is computed, beside the declared ones."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one route was measured to need: means per question, and one training of its adapter."""

    seconds: float
    """Of the whole machine, in batches where the run had any."""
    prompt_tokens: float
    completion_tokens: float
    retrieves: bool
    training_seconds: float | None
    """0 without an adapter, None if nobody says how long it took."""


def costs(usages: Mapping[str, Usage], quality: Mapping[str, float], prices: Prices) -> CostsResult:
    """Costs by route, and every route with an adapter against the best one without, by mean `quality`."""
    plain = [name for name, usage in usages.items() if usage.training_seconds == 0]
    rival = max(plain, key=quality.__getitem__, default=None)
    tuned = [name for name, usage in usages.items() if usage.training_seconds]
    return CostsResult(
        prices=prices.model_dump(mode="json"),
        routes={name: _route_cost(usage, prices) for name, usage in usages.items()},
        break_even=[_break_even(name, rival, usages, quality, prices) for name in tuned if rival is not None],
    )


def answer_cost(usage: Usage, prices: Prices) -> float:
    """Of one answer, without training."""
    return (
        usage.seconds / 3600 * prices.machine_hour
        + usage.prompt_tokens / 1e6 * prices.million_prompt_tokens
        + usage.completion_tokens / 1e6 * prices.million_completion_tokens
    )


def training_cost_a_day(usage: Usage, prices: Prices, change_days: float) -> float | None:
    """The training's cost spread over the days that its adapter is used."""
    if usage.training_seconds is None:
        return None
    days = prices.retrain_days if usage.retrieves else change_days
    return usage.training_seconds / 3600 * prices.training_hour / days


def break_even_questions(tuned: Usage, plain: Usage, prices: Prices, change_days: float) -> float | None:
    """Questions a day from which `tuned` is the cheaper of the two; None if it never is."""
    saving = answer_cost(plain, prices) - answer_cost(tuned, prices)
    fixed = training_cost_a_day(tuned, prices, change_days)
    return None if fixed is None or saving <= 0 else fixed / saving


def total_per_1000(usage: Usage, prices: Prices) -> float | None:
    """1,000 answers with their share of training, at the declared volume and rate of change."""
    fixed = training_cost_a_day(usage, prices, prices.change_days)
    if fixed is None:
        return None
    return 1000 * (answer_cost(usage, prices) + fixed / prices.questions_per_day)


def _route_cost(usage: Usage, prices: Prices) -> RouteCost:
    seconds = usage.training_seconds
    return RouteCost(
        seconds=usage.seconds,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        per_1000=1000 * answer_cost(usage, prices),
        training_seconds=seconds,
        training=None if seconds is None else seconds / 3600 * prices.training_hour,
        per_1000_with_training=total_per_1000(usage, prices),
    )


def _break_even(
    name: str, rival: str, usages: Mapping[str, Usage], quality: Mapping[str, float], prices: Prices
) -> BreakEven:
    tuned, plain = usages[name], usages[rival]
    days = sorted({*CHANGE_DAYS, prices.change_days})
    curve = {f"{day:g}": break_even_questions(tuned, plain, prices, day) for day in days}
    return BreakEven(
        route=name,
        against=rival,
        saving_per_1000=1000 * (answer_cost(plain, prices) - answer_cost(tuned, prices)),
        quality_difference=quality[name] - quality[rival],
        questions_per_day=curve,
        sentence=_sentence(name, rival, tuned, plain, prices),
    )


def _sentence(name: str, rival: str, tuned: Usage, plain: Usage, prices: Prices) -> str:
    needed = break_even_questions(tuned, plain, prices, prices.change_days)
    if needed is None:
        return (
            f"Fine-tuning ({name}) never pays by cost alone: an answer costs no less than by {rival} "
            f"({1000 * answer_cost(tuned, prices):.4g} and {1000 * answer_cost(plain, prices):.4g} "
            f"{prices.currency} per 1,000)."
        )
    condition = (
        f"if its adapter is trained every {prices.retrain_days:g} days"
        if tuned.retrieves
        else f"if documents change less than every {prices.change_days:g} days"
    )
    return f"Fine-tuning ({name}) costs less than {rival} above {rounded_up(needed)} questions a day {condition}."


def rounded_up(questions: float) -> str:
    """Two figures are enough for people, and the promise still holds."""
    scale = 10.0 ** max(len(str(int(questions))) - 2, 0)
    return f"{int(-(-questions // scale) * scale):,}"


def mean_usage(
    seconds: Sequence[float],
    prompt_tokens: Sequence[int],
    completion_tokens: Sequence[int],
    retrieves: bool,
    training_seconds: float | None,
) -> Usage:
    """The usage of a route from that of its answers."""
    count = len(prompt_tokens)
    return Usage(
        sum(seconds) / len(seconds),
        sum(prompt_tokens) / count,
        sum(completion_tokens) / count,
        retrieves,
        training_seconds,
    )
