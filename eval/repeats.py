"""Answers drawn at random, several times: how much of a score's uncertainty comes from decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eval.asking import BATCH, prepared_key
from eval.measuring import cluster_of
from eval.provenance import Setup
from eval.result import RepeatsResult
from eval.statistics import Floats, mean_interval
from indexer.corpus import Question
from indexer.files import hash_text
from service.answer import Answer, Prepared, Timings
from service.answering import Answerer
from service.routes import Route
from tuner.decoding import Sampling


class SampledAsker:
    """The routes of this process with a temperature; every question of every repeat has a seed of its own."""

    parallel = BATCH

    def __init__(self, answerer: Answerer, setup: Setup, temperature: float, repeat: int) -> None:
        self.setup = setup
        self._answerer = answerer
        self._temperature = temperature
        self._repeat = repeat

    def answer_many(self, pairs: Sequence[tuple[str, Route]]) -> list[Answer]:
        """Answer in order, in one batch; nobody reads the timings of these answers."""
        prepared = self._prepared(pairs)
        decoded = self._answerer.generator.generate([one.request for one in prepared])
        untimed = Timings(0.0, 0.0, 0.0, 0.0)
        return [
            self._answerer.finish(one, said, untimed) for one, said in zip(prepared, decoded, strict=True)
        ]

    def keys(self, pairs: Sequence[tuple[str, Route]]) -> list[str]:
        """As in greedy answering, with temperature and seed."""
        return [prepared_key(self._answerer, self.setup, one) for one in self._prepared(pairs)]

    def _prepared(self, pairs: Sequence[tuple[str, Route]]) -> list[Prepared]:
        return [self._sampled(one) for one in self._answerer.prepare(pairs)]

    def _sampled(self, prepared: Prepared) -> Prepared:
        greedy: Sampling = prepared.request.sampling
        # One seed for all would make all questions lucky together.
        seed = int(hash_text(prepared.question, str(self._repeat))[:8], 16)
        drawn = replace(greedy, temperature=self._temperature, seed=seed)
        return replace(prepared, request=replace(prepared.request, sampling=drawn))


def repeats_result(
    scores: Floats, questions: Sequence[Question], temperature: float, resamples: int, seed: int
) -> RepeatsResult:
    """`scores` [repeats, questions] of one route, by where their variance comes from.

    The mean over repeats varies with the questions (its standard error, by document) and with the drawing of answers
    (the standard deviation of one run's mean).
    """
    by_question = scores.mean(axis=0)
    clusters = [cluster_of(question) for question in questions]
    found = mean_interval(by_question, clusters, resamples, np.random.default_rng(seed))
    run_means = scores.mean(axis=1)
    within, between = float(scores.var(axis=0, ddof=1).mean()), float(by_question.var())
    return RepeatsResult(
        repeats=len(scores),
        temperature=temperature,
        mean=found.value,
        ci=(found.low, found.high),
        standard_error_questions=found.standard_error if np.isfinite(found.standard_error) else None,
        standard_deviation_runs=float(run_means.std(ddof=1)),
        share_of_decoding=within / (within + between) if within + between else 0.0,
    )
