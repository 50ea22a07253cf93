"""How likely each route finds the accepted answers: told apart where its own words are right or wrong by luck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from eval.answers import EvalError
from eval.likelihood import Continuation, log_likelihoods
from eval.statistics import Floats
from indexer.corpus import Question
from service.answer import Prepared
from service.answering import Answerer
from service.generation import LocalGenerator
from service.routes import Route
from tuner.prompt import STYLES


def gold_log_likelihoods(
    answerer: Answerer, generator: LocalGenerator, questions: Sequence[Question], route: Route
) -> Floats:
    """For each question the log-probability per token (natural, at most 0) of its likeliest accepted answer.

    After the very prompt that the route would answer; all questions must be answerable.
    """
    prepared = answerer.prepare([(question.text, route) for question in questions])
    generator.adapters.use(prepared[0].request.adapter)
    rows = [_rows(answerer, question, one) for question, one in zip(questions, prepared, strict=True)]
    base = answerer.base
    found: Iterator[float] = iter(
        log_likelihoods(base.model, base.tokenizer.pad_token_id, [row for some in rows for row in some])
    )
    return np.array([max(next(found) / len(row.scored) for row in some) for some in rows], dtype=np.float64)


def _rows(answerer: Answerer, question: Question, prepared: Prepared) -> list[Continuation]:
    tokenizer = answerer.base.tokenizer
    # A turn of a chat starts with the answer itself, as in training; plain text goes on after a space.
    chat = STYLES[prepared.route.prompt].chat and getattr(tokenizer, "chat_template", None) is not None
    answers = [answer if chat else f" {answer}" for answer in question.answers]
    tokens = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    rows = [Continuation(prepared.request.prompt, scored) for scored in tokens if scored]
    if not rows:
        raise EvalError(f"question {question.id!r} has only empty answers; give one, or [] if there is none")
    return rows
