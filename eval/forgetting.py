"""What training made a model forget: general multiple choice, the base model against each adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from eval.answers import EvalError
from eval.likelihood import Continuation, log_likelihoods, token_count
from eval.result import ForgettingResult, Measure
from eval.statistics import Floats, mean_interval, paired_difference
from indexer.files import hash_json, write_atomically
from indexer.progress import progress

BUNDLED = "bundled"
"""Name of the questions that come with openbook (`eval/data/general.jsonl`), of our own writing."""

Style = Literal["answer", "continuation"]


@dataclass(frozen=True, slots=True)
class Item:
    """A general question; `answer` is the place of the right choice.

    Choices are scored as answers to the question, or as the continuation of it.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    style: Style = "answer"


def read_items(path: Path | None) -> list[Item]:
    """The questions of a JSON Lines file, or the bundled ones. Raises EvalError.

    Lines are `{"question", "choices": [...], "answer": index}`, with `"style": "continuation"` where a choice goes on
    where the question stops.
    """
    if path is None:
        text = (files("eval") / "data" / "general.jsonl").read_text(encoding="utf-8")
        return _parse(text, "the bundled general questions")
    try:
        return _parse(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"{path}: cannot be read as UTF-8 text ({error}); name a .jsonl file") from error


def items_hash(items: Sequence[Item]) -> str:
    """Identity of a set of questions."""
    return hash_json([[i.question, list(i.choices), i.answer, i.style] for i in items])


def item_scores(model: Any, tokenizer: Any, items: Sequence[Item], asked: str) -> Floats:
    """1 where the right choice is the likeliest, else 0; likelihoods are per byte, so that length does not count.

    Progress is shown under the name of who is `asked`.
    """
    rows = [_continuation(tokenizer, item, choice) for item in items for choice in item.choices]
    with progress(f"general questions, {asked}", sum(map(token_count, rows))) as advance:
        found = iter(log_likelihoods(model, tokenizer.pad_token_id, rows, advance))
    right = []
    for item in items:
        per_byte = [next(found) / max(len(choice.encode()), 1) for choice in item.choices]
        right.append(float(int(np.argmax(per_byte)) == item.answer))
    return np.array(right, dtype=np.float64)


def forgetting(
    items: Sequence[Item],
    adapters: Sequence[str],
    score: Callable[[str | None], Floats],
    source: str,
    resamples: int,
    seed: int,
) -> dict[str, ForgettingResult]:
    """By adapter, its share of right answers less the base model's, paired by question.

    `score` gives the item scores with an adapter, or of the base model alone (None). `source` names the questions.
    """
    alone = [str(number) for number in range(len(items))]
    before = score(None)

    def measure(scores: Floats) -> Measure:
        found = mean_interval(scores, alone, resamples, np.random.default_rng(seed))
        return Measure(mean=found.value, ci=(found.low, found.high))

    def compared(adapter: str) -> ForgettingResult:
        after = score(adapter)
        change, p = paired_difference(after - before, alone, resamples, np.random.default_rng(seed))
        return ForgettingResult(
            source=source,
            items=items_hash(items),
            n=len(items),
            chance=float(np.mean([1 / len(item.choices) for item in items])),
            base=measure(before),
            adapter=measure(after),
            change=Measure(mean=change.value, ci=(change.low, change.high)),
            p=p,
        )

    return {adapter: compared(adapter) for adapter in adapters}


def format_forgetting(found: Mapping[str, ForgettingResult]) -> str:
    """A line an adapter."""
    return "\n".join(
        f"{name}: {result.adapter.mean:.3f} of {result.n} general questions right, {result.base.mean:.3f} without it: "
        f"{100 * result.change.mean:+.1f} points [{100 * result.change.ci[0]:+.1f}, {100 * result.change.ci[1]:+.1f}]"
        f" ({result.source}; chance {result.chance:.2f})"
        for name, result in found.items()
    )


_KEPT = TypeAdapter(dict[str, dict[str, ForgettingResult]])


def read_forgetting(path: Path) -> dict[str, dict[str, ForgettingResult]]:
    """What was measured before, by the hash of the adapter's weights and the name of the questions."""
    try:
        return _KEPT.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}


def keep_forgetting(path: Path, weights_hash: str, result: ForgettingResult) -> None:
    """Add a measurement to the file, so that evaluations with this adapter can show it."""
    kept = read_forgetting(path)
    kept.setdefault(weights_hash, {})[result.source] = result
    write_atomically(path, _KEPT.dump_json(kept, indent=2) + b"\n")


_EXPECTED = 'lines like {"question": "...", "choices": ["...", "..."], "answer": 0}'


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore")

    question: str = Field(min_length=1)
    choices: tuple[str, ...] = Field(min_length=2)
    answer: int
    style: Style = "answer"

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> _Line:
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"answer {self.answer} is not the place of one of {len(self.choices)} choices")
        return self


def _parse(text: str, where: str) -> list[Item]:
    items = []
    for number, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            line = _Line.model_validate(json.loads(raw))
        except json.JSONDecodeError as error:
            raise EvalError(f"{where}, line {number}: not JSON ({error.msg})") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the line"
            raise EvalError(
                f"{where}, line {number}: {place}: {first['msg']}; expected {_EXPECTED}"
            ) from error
        items.append(Item(line.question, line.choices, line.answer, line.style))
    if not items:
        raise EvalError(f"{where} holds no questions; expected {_EXPECTED}")
    return items


def _continuation(tokenizer: Any, item: Item, choice: str) -> Continuation:
    """Tokenised together, as the text would be read, and cut where the choice starts."""
    given = item.question if item.style == "continuation" else f"Question: {item.question}\nAnswer:"
    start = list(tokenizer(given, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(f"{given} {choice}", add_special_tokens=False)["input_ids"])
    cut = next((n for n, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), len(start))
    # Where the last word and the choice share a token, that token is scored as part of the choice.
    cut = min(cut, len(whole) - 1)
    if cut == 0:
        raise EvalError(f"the general question {item.question!r} is too short to be scored")
    return Continuation(whole[:cut], whole[cut:])
