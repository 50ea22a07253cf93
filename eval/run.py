"""One evaluation: ask every route the same questions, score the answers, write the results."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from eval.answers import AnswerLog, AnswerRecord, EvalError, read_answers
from eval.asking import BATCH, Asker
from eval.config import EvalConfig
from eval.markdown import markdown_report
from eval.provenance import Setup
from eval.report import html_report
from eval.result import EvaluationResult, ForgettingResult
from eval.scoring import Additional, score
from eval.statistics import Floats
from eval.studies import latest_studies
from indexer.corpus import Question
from indexer.encoding import Encoder
from indexer.files import hash_text, write_atomically
from indexer.progress import progress
from service.answer import Answer
from service.routes import Route

log = logging.getLogger("openbook.eval")


class KeyedQuestion(NamedTuple):
    """A question, and the name of all that one route's answer to it depends on."""

    question: Question
    key: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation and the folder that holds its files."""

    result: EvaluationResult
    folder: Path


@dataclass(frozen=True, slots=True)
class Oracle:
    """Answers the questions that have gold passages from exactly these."""

    asker: Asker
    questions: Sequence[Question]


@dataclass(frozen=True, slots=True)
class Repeats:
    """One asker for each time that answers are drawn."""

    askers: Sequence[Asker]
    temperature: float


@dataclass(frozen=True, slots=True)
class Extras:
    """What an evaluation may be given beside its questions; everything may be left out.

    `retrieval` holds scores that belong to no route; `forgotten` is what `eval.forgetting` found, by adapter; with an
    `encoder` answers are also compared by meaning.
    """

    retrieval: Mapping[str, float] = field(default_factory=dict)
    forgotten: Mapping[str, Sequence[ForgettingResult]] = field(default_factory=dict)
    encoder: Encoder | None = None
    likelihoods: Mapping[str, Floats] = field(default_factory=dict)
    """Log-probabilities of the accepted answers by route, one for each answerable question."""
    oracle: Oracle | None = None
    repeats: Repeats | None = None


def evaluate(
    asker: Asker,
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    folder: Path,
    settings: EvalConfig = EvalConfig(),  # noqa: B008 - never changed
    extras: Extras = Extras(),
    earlier: Sequence[Path] = (),
) -> Evaluation:
    """Ask every route the same questions; write answers, scores and reports into `folder`.

    For instance in a notebook, of a service that runs already:

        from pathlib import Path
        from eval.http_client import HttpAsker, open_client
        from eval.run import evaluate
        from indexer.readers import read_questions

        service = HttpAsker(open_client("http://127.0.0.1:8080", api_key=None))
        questions = [q for q in read_questions(Path("questions.jsonl")) if q.split == "test"]
        evaluation = evaluate(service, questions, service.routes(), Path("my-evaluation"))
        evaluation.result.verdict.reason
        evaluation.result.routes["rag"].metrics["f1"].ci

    Files: `answers.jsonl` (as it grows), `result.json`, `report.md` and `report.html`. An answer with the same
    key that is found in `answers.jsonl`, or in the `earlier` ones, is not asked for again. Raises EvalError.
    """
    if not routes:
        raise EvalError("there are no routes to evaluate; name at least one")
    if not any(question.answerable for question in questions):
        raise EvalError(
            f"none of the {len(questions)} questions has an answer; routes cannot be compared on them"
        )
    path = folder / "answers.jsonl"
    records = answers_of(asker, questions, routes, path, earlier, settings.latency_questions)
    ceilings = {} if extras.oracle is None else _ceilings(extras.oracle, routes, path, earlier)
    drawn = {} if extras.repeats is None else _drawn(extras.repeats, questions, routes, path, earlier)
    result = score(
        questions,
        routes,
        records,
        settings,
        asker.setup,
        Additional(
            extras.retrieval,
            extras.forgotten,
            extras.encoder,
            extras.likelihoods,
            ceilings,
            drawn,
            extras.repeats.temperature if extras.repeats else 0.0,
        ),
    )
    studies = latest_studies(folder.parent, result)
    write_atomically(folder / "report.md", markdown_report(result, studies))
    write_atomically(folder / "report.html", html_report(result, questions, routes, records, studies))
    # Last, because it is what says that the run is complete.
    write_atomically(folder / "result.json", result.model_dump_json(indent=2) + "\n")
    return Evaluation(result, folder)


def answers_of(
    asker: Asker,
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    path: Path,
    earlier: Sequence[Path],
    latency_questions: int,
) -> dict[str, list[AnswerRecord]]:
    """Every route's answers, kept in the file at `path`; what is known there or from `earlier` is not asked."""
    answer_log = AnswerLog(path)
    keyed = keyed_questions(asker, questions, routes)
    known = known_answers([*earlier, path], keyed)
    # Starts the file anew, without lines that a crash cut short: what follows is appended.
    answer_log.rewrite(known.values())
    return _ask(asker, routes, keyed, known, latency_questions, answer_log)


def _ceilings(
    oracle: Oracle, routes: Mapping[str, Route], answers: Path, earlier: Sequence[Path]
) -> dict[str, dict[str, Answer]]:
    """The oracle's answers by route and question id.

    Where a route was shown exactly the gold passages, its own answer is the oracle's.
    """
    retrieving = {name: route for name, route in routes.items() if route.retrieve}
    path = answers.with_name("oracle.jsonl")
    known = [*earlier, *(file.with_name(path.name) for file in earlier), answers]
    records = answers_of(oracle.asker, oracle.questions, retrieving, path, known, latency_questions=0)
    return {name: {record.question_id: record.answer for record in given} for name, given in records.items()}


def _drawn(
    repeats: Repeats,
    questions: Sequence[Question],
    routes: Mapping[str, Route],
    answers: Path,
    earlier: Sequence[Path],
) -> dict[str, list[list[Answer]]]:
    """By route, for each repeat the answers to the answerable questions."""
    asked = [question for question in questions if question.answerable]
    drawn: dict[str, list[list[Answer]]] = {name: [] for name in routes}
    for number, asker in enumerate(repeats.askers, start=1):
        path = answers.with_name(f"repeat-{number}.jsonl")
        known = [file.with_name(path.name) for file in earlier]
        records = answers_of(asker, asked, routes, path, known, latency_questions=0)
        for name, given in records.items():
            drawn[name].append([record.answer for record in given])
    return drawn


def keyed_questions(
    asker: Asker, questions: Sequence[Question], routes: Mapping[str, Route]
) -> dict[str, list[KeyedQuestion]]:
    """By route, every question with the key of its answer."""

    def keyed(route: Route) -> list[KeyedQuestion]:
        keys = asker.keys([(question.text, route) for question in questions])
        return [KeyedQuestion(q, hash_text(key, q.id)) for q, key in zip(questions, keys, strict=True)]

    return {name: keyed(route) for name, route in routes.items()}


def known_answers(
    paths: Sequence[Path], keyed: Mapping[str, Sequence[KeyedQuestion]]
) -> dict[str, AnswerRecord]:
    """Those of the answers in `paths` that are still what would be answered now; later files win."""
    wanted = {key for pairs in keyed.values() for _, key in pairs}
    found = (item for path in paths for item in read_answers(path).items())
    return {key: record for key, record in found if key in wanted}


def _ask(
    asker: Asker,
    routes: Mapping[str, Route],
    keyed: Mapping[str, Sequence[KeyedQuestion]],
    known: Mapping[str, AnswerRecord],
    latency_questions: int,
    answer_log: AnswerLog,
) -> dict[str, list[AnswerRecord]]:
    """Every route's answers in the order of the questions; only those not known are asked for."""
    answers = dict(known)
    batches = {name: missing_batches(pairs, known, latency_questions) for name, pairs in keyed.items()}
    total = sum(map(len, keyed.values()))
    missing = {name: sum(map(len, cut)) for name, cut in batches.items()}
    with progress("evaluating", total, done=total - sum(missing.values())) as advance:
        for name, pairs in keyed.items():
            log.info(
                "route %s: %d answers known, %d to ask for", name, len(pairs) - missing[name], missing[name]
            )
            for records in _answers(asker, routes[name], batches[name]):
                _require_same_setup(records, name, asker.setup)
                answer_log.append(records)
                answers |= {record.key: record for record in records}
                advance(len(records), name)
    in_order = {name: [answers[key] for _, key in pairs] for name, pairs in keyed.items()}
    answer_log.rewrite(record for records in in_order.values() for record in records)
    return in_order


def missing_batches(
    pairs: Sequence[KeyedQuestion], known: Mapping[str, AnswerRecord], latency_questions: int
) -> list[list[KeyedQuestion]]:
    """What is still to be asked: the first questions one at a time, the others in batches.

    Batches are cut from all questions, known or not, so that a run that goes on cuts them as before.
    """
    alone = [[p] for p in pairs[:latency_questions] if p.key not in known or known[p.key].shared_by > 1]
    together = pairs[latency_questions:]
    cut = (together[start : start + BATCH] for start in range(0, len(together), BATCH))
    return [*alone, *filter(None, ([p for p in batch if p.key not in known] for batch in cut))]


def _require_same_setup(records: Sequence[AnswerRecord], route_name: str, setup: Setup) -> None:
    """Whoever syncs the index or promotes an adapter during a run would mix two states in one result."""
    for answer in (record.answer for record in records):
        expected = setup.adapters.get(answer.route)
        if answer.adapter != expected or answer.generation not in (None, setup.index_generation):
            raise EvalError(
                f"route {route_name} changed during the evaluation (adapter {expected} to {answer.adapter}, "
                f"index generation {setup.index_generation} to {answer.generation}); run it again"
            )


def _answers(
    asker: Asker, route: Route, batches: Sequence[Sequence[KeyedQuestion]]
) -> Iterator[list[AnswerRecord]]:
    if batches and len(batches[0]) == 1:
        # Not kept: the first call loads the adapter and fills caches.
        asker.answer_many([(batches[0][0].question.text, route)])
    for batch in batches:
        answers = asker.answer_many([(question.text, route) for question, _ in batch])
        shared_by = min(len(batch), asker.parallel)
        yield [
            AnswerRecord(
                key, question.id, shared_by, answer, "" if answer.route == route.name else route.name
            )
            for (question, key), answer in zip(batch, answers, strict=True)
        ]
