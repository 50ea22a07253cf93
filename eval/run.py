"""One evaluation: ask every route the same questions, score the answers, write the results."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.answers import AnswerLog, AnswerMany, AnswerRecord, EvalError, read_answers
from eval.config import EvalConfig
from eval.provenance import Setup, route_identity
from eval.report import html_report, markdown_report
from eval.result import EvaluationResult
from eval.scoring import score
from indexer.corpus import Question
from indexer.files import hash_text, write_atomically
from indexer.progress import progress
from service.routes import Route

log = logging.getLogger("openbook.eval")

BATCH = 32
"""Questions answered between two writes: what an interrupted run loses at most."""

_Keyed = tuple[Question, str]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation and the folder that holds its files."""

    result: EvaluationResult
    folder: Path


def evaluate(
    answer_many: AnswerMany,
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    settings: EvalConfig,
    folder: Path,
    setup: Setup,
    retrieval: Mapping[str, float],
    earlier: Sequence[Path] = (),
) -> Evaluation:
    """Write `answers.jsonl` (as it grows), `result.json`, `report.md` and `report.html` into `folder`.

    An answer found there, or in the `earlier` files, that was given to the same question by the same route
    over the same models and corpus is not asked for again. `retrieval` holds scores that belong to no route.
    """
    if not routes:
        raise EvalError("there are no routes to evaluate; name at least one")
    if not any(question.answerable for question in questions):
        raise EvalError(
            f"none of the {len(questions)} questions has an answer; routes cannot be compared on them"
        )
    answer_log = AnswerLog(folder / "answers.jsonl")
    keyed = {
        name: [(q, hash_text(route_identity(route, setup), q.id, q.text)) for q in questions]
        for name, route in routes.items()
    }
    known = _known_answers([*earlier, answer_log.path], keyed)
    # Starts the file anew, without lines that a crash cut short: what follows is appended.
    answer_log.rewrite(known.values())
    records = _ask(answer_many, routes, keyed, known, settings.latency_questions, answer_log, setup)
    result = score(questions, routes, records, settings, setup, retrieval)
    write_atomically(folder / "report.md", markdown_report(result))
    write_atomically(folder / "report.html", html_report(result, questions, routes, records))
    # Last, because it is what says that the run is complete.
    write_atomically(folder / "result.json", result.model_dump_json(indent=2) + "\n")
    return Evaluation(result, folder)


def _known_answers(paths: Sequence[Path], keyed: Mapping[str, Sequence[_Keyed]]) -> dict[str, AnswerRecord]:
    wanted = {key for pairs in keyed.values() for _, key in pairs}
    found = (item for path in paths for item in read_answers(path).items())
    return {key: record for key, record in found if key in wanted}


def _ask(
    answer_many: AnswerMany,
    routes: Mapping[str, Route],
    keyed: Mapping[str, Sequence[_Keyed]],
    known: Mapping[str, AnswerRecord],
    latency_questions: int,
    answer_log: AnswerLog,
    setup: Setup,
) -> dict[str, list[AnswerRecord]]:
    """Every route's answers in the order of the questions; only those not known are asked for."""
    answers = dict(known)
    with progress("evaluating", sum(map(len, keyed.values()))) as advance:
        for name, pairs in keyed.items():
            alone = [p for p in pairs[:latency_questions] if p[1] not in known or not known[p[1]].timed_alone]
            together = [p for p in pairs[latency_questions:] if p[1] not in known]
            missing = len(alone) + len(together)
            log.info("route %s: %d answers known, %d to ask for", name, len(pairs) - missing, missing)
            advance(len(pairs) - missing, name)
            for records in _answers(answer_many, routes[name], alone, together):
                _require_same_setup(records, name, setup)
                answer_log.append(records)
                answers |= {record.key: record for record in records}
                advance(len(records), name)
    in_order = {name: [answers[key] for _, key in pairs] for name, pairs in keyed.items()}
    answer_log.rewrite(record for records in in_order.values() for record in records)
    return in_order


def _require_same_setup(records: Sequence[AnswerRecord], route_name: str, setup: Setup) -> None:
    """Whoever syncs the index or promotes an adapter during a run would mix two states in one result."""
    expected = setup.adapters.get(route_name)
    for answer in (record.answer for record in records):
        if answer.adapter != expected or answer.generation not in (None, setup.index_generation):
            raise EvalError(
                f"route {route_name} changed during the evaluation (adapter {expected} to {answer.adapter}, "
                f"index generation {setup.index_generation} to {answer.generation}); run it again"
            )


def _answers(
    answer_many: AnswerMany, route: Route, alone: Sequence[_Keyed], together: Sequence[_Keyed]
) -> Iterator[list[AnswerRecord]]:
    if alone:
        answer_many(
            [(alone[0][0].text, route)]
        )  # not kept: the first call loads the adapter and fills caches
    for question, key in alone:
        (answer,) = answer_many([(question.text, route)])
        yield [AnswerRecord(key, question.id, True, answer)]
    for start in range(0, len(together), BATCH):
        batch = together[start : start + BATCH]
        answers = answer_many([(question.text, route) for question, _ in batch])
        yield [
            AnswerRecord(key, question.id, False, answer)
            for (question, key), answer in zip(batch, answers, strict=True)
        ]
