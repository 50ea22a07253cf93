"""The report's table of all answers: what stands in its cells, and the passages shown, each kept once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from eval.answers import AnswerRecord
from eval.attribution import Outcome, is_gold_shown, outcome
from eval.plots import GOOD
from eval.scoring import METRICS
from indexer.corpus import Question
from service.answer import Answer, Citation
from service.routes import Route

TEXT_BYTES = 1_000_000
"""What all questions and answers together may take in the page; long ones are cut."""
PASSAGE_BYTES = 2_200_000
"""The same for passages, each counted once however often it was shown."""
_SHORTEST = 120
"""No text is cut to less than this."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One route's answer to one question; `score` is that of the primary metric, or 1 for a right abstention."""

    route: str
    text: str
    outcome: str
    words: str
    good: bool
    score: float
    prompt_tokens: int
    completion_tokens: int
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """One question with every route's answer."""

    question: Question
    synthetic: bool
    cells: list[Cell]


def answer_rows(
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    records: Mapping[str, Sequence[AnswerRecord]],
    metric: str,
) -> list[Row]:
    """A row a question, a cell a route."""
    return [
        Row(
            question,
            question.synthetic,
            [_cell(question, routes[name], given[index].answer, metric) for name, given in records.items()],
        )
        for index, question in enumerate(questions)
    ]


def passages_json(questions: Sequence[Question], records: Mapping[str, Sequence[AnswerRecord]]) -> Markup:
    """`{"passages": [...], "shown": [...], "cut": ...}` for the page's script.

    A passage is `[document, title, start, end, text]`. `shown` holds for every question and route the places of the
    passages that the route was shown, with 1 added for gold ones and 2 for cited ones. `cut` is the number of
    characters that passages were cut to, or null.
    """
    places: dict[Citation, int] = {}
    shown = [
        [_shown(question, given[index].answer, places) for given in records.values()]
        for index, question in enumerate(questions)
    ]
    length = longest_that_fits([passage.text for passage in places], PASSAGE_BYTES, _json_bytes)
    passages = [
        [p.document_id, p.title, p.start, p.end, p.text if length is None else clip(p.text, length)]
        for p in places
    ]
    return script_json({"passages": passages, "shown": shown, "cut": length})


def script_json(value: object) -> Markup:
    """JSON that can stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704


def longest_that_fits(texts: Sequence[str], budget: int, size: Callable[[str], int]) -> int | None:
    """The number of characters to cut `texts` to so that their sizes add up to `budget`; None if all may stay."""
    length = max(map(len, texts), default=0)
    if sum(map(size, texts)) <= budget:
        return None
    while length > _SHORTEST and sum(size(clip(text, length)) for text in texts) > budget:
        length = max(int(length * 0.85), _SHORTEST)
    return length


def html_bytes(text: str) -> int:
    """What a text takes in the page."""
    return len(escape(text).encode())


def clip(text: str, length: int) -> str:
    """The first `length` characters, with a sign that there were more."""
    return text if len(text) <= length else f"{text[:length]}…"


def _json_bytes(text: str) -> int:
    return len(script_json(text).encode())


def _cell(question: Question, route: Route, answer: Answer, metric: str) -> Cell:
    kind = outcome(question, answer)
    return Cell(
        route=route.name,
        text=answer.answer,
        outcome=kind.value,
        words=kind.value.replace("_", " "),
        good=kind in GOOD,
        score=METRICS[metric](answer.answer, question.answers)
        if question.answerable
        else float(kind is Outcome.RIGHT_ABSTENTION),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        milliseconds=answer.timings_ms.total,
    )


def _shown(question: Question, answer: Answer, places: dict[Citation, int]) -> list[list[int]]:
    cited = {(c.document_id, c.start, c.end) for c in answer.citations}
    found = []
    for context in answer.contexts:
        # The same chunk stands elsewhere, and with another score, for another question.
        passage = Citation(
            0, context.document_id, context.title, 0, context.start, context.end, context.text, 0.0
        )
        place = places.setdefault(passage, len(places))
        gold = question.answerable and is_gold_shown(question, [context])
        found.append([place, gold + 2 * ((context.document_id, context.start, context.end) in cited)])
    return found
