"""Answers for the HTTP endpoints: the same steps as `Answerer.answer`, without blocking the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from indexer.metadata import Where
from service.answer import Prepared
from service.answering import Answerer
from service.experiments import PREFIX, Experiments, Exposure, assign
from service.generation import GenerationRequest
from service.model_thread import ModelThread
from service.recent_answers import RecentAnswers
from service.router import PROBE, Router, confidence_facts
from service.routes import AUTO, Route
from service.underway import AnswerTimeout, Underway
from service.worker_threads import run_beside_model
from tuner.decoding import Decoded, Sampling

if TYPE_CHECKING:
    from service.tracing import Tracing

T = TypeVar("T")


class LiveAnswerer:
    """Joins the answerer (threads) with the model thread (one) for many concurrent requests."""

    def __init__(
        self,
        answerer: Answerer,
        model_thread: ModelThread,
        timeout_seconds: float,
        router: Router | None = None,
    ) -> None:
        """With a `router`, the name `auto` leaves the choice of the route to it."""
        self.answerer = answerer
        self.router = router
        self.model_thread = model_thread
        self.metrics = model_thread.metrics
        self.recent = RecentAnswers()
        self.timeout_seconds = timeout_seconds
        self.preparing = 0
        """Answers whose prompts are being made, also those that nobody waits for any more."""
        self.tracing: Tracing | None = None
        """Makes spans, where they are wanted."""
        self.experiments: Experiments | None = None
        """With them, `experiment:NAME` stands for the route that a user is assigned to."""

    async def assign(self, name: str, user: str | None, request: Request) -> tuple[str, Exposure | None]:
        """The route that is asked for, and as part of what experiment; any other name than one of those stays.

        Raises UnknownExperiment, and UnknownRoute if the route is not there any more.
        """
        if self.experiments is None or not name.startswith(PREFIX):
            return name, None
        experiment = await run_in_threadpool(self.experiments.get, name.removeprefix(PREFIX))
        if experiment.successor is not None:
            return experiment.successor, None
        for arm in experiment.shares:
            self.require_route(arm)  # or only some of the users would be answered
        exposure = assign(experiment, user, getattr(request.state, "key_name", None))
        return exposure.arm, exposure

    async def expose(self, exposure: Exposure) -> None:
        """Count a request of an experiment."""
        if self.experiments is not None:
            await run_in_threadpool(self.experiments.expose, exposure)
            self.metrics.experiment_requests.labels(exposure.experiment, exposure.arm).inc()

    async def ask(self, question: str, name: str, where: Where | None) -> Underway:
        """Queue an answer by the route that `route_for` finds. Raises what that and `begin` do."""
        started = time.monotonic()
        return await self.begin([question], await self.route_for(name, question, where), started=started)

    async def route_for(self, name: str, question: str, where: Where | None) -> Route:
        """The route of that name or, for `auto`, the one that the router takes, restricted to `where`.

        Raises UnknownRoute, RouterError, AnswerTimeout, Overloaded and whatever `Answerer.prepare` does.
        """
        self.require_route(name)
        if self.router is None or name != AUTO:
            return self.answerer.route(name).restricted(where)
        started, router = time.monotonic(), self.router

        def facts_of() -> dict[str, float]:
            self.answerer.require_room(question, PROBE.max_new_tokens)
            return router.facts(question, where)

        facts = await self._beside(facts_of, 1, started)
        if (probe := router.probe) is not None:
            facts |= confidence_facts(await self._decoded(question, probe, PROBE, started))
        return router.choose(facts).restricted(where)

    def require_route(self, name: str) -> None:
        """Raise UnknownRoute unless `route_for` knows the name, or `assign` says which experiment it does not know."""
        if self.experiments is not None and name.startswith(PREFIX):
            return
        self.require_answering(name)

    def require_answering(self, name: str) -> None:
        """Raise UnknownRoute unless this is a route or, with a router, `auto`."""
        if self.router is None or name != AUTO:
            self.answerer.route(name)

    async def begin(
        self,
        questions: Sequence[str],
        route: Route,
        sampling: Sampling | None = None,
        choices: int = 1,
        started: float | None = None,
    ) -> Underway:
        """Queue `choices` answers to each question.

        Raises Overloaded, TooMuchAtOnce, AnswerTimeout and whatever `Answerer.prepare` does.

        `started` (monotonic) is when the request came, if something was done for it before.
        """
        prepare = partial(self.answerer.prepare, [(question, route) for question in questions], sampling)
        return await self._begin(prepare, len(questions), route, choices, started or time.monotonic())

    async def continue_tokens(
        self, prompts: Sequence[Sequence[int]], route: Route, sampling: Sampling, choices: int
    ) -> Underway:
        """Queue `choices` continuations of each prompt, as it is.

        Raises Overloaded, TooMuchAtOnce, AnswerTimeout, PromptError, AdapterError.
        """
        prepare = partial(self.answerer.prepare_tokens, prompts, route, sampling)
        return await self._begin(prepare, len(prompts), route, choices, time.monotonic())

    async def _begin(
        self,
        prepare: Callable[[], list[Prepared]],
        prompts: int,
        route: Route,
        choices: int,
        started: float,
    ) -> Underway:
        with self.counted(route.name):
            self.model_thread.require_room(prompts * choices, coming=self.preparing)
            prepared = await self._beside(prepare, prompts * choices, started)
            if self.tracing is not None:
                self.tracing.retrieved(prepared)
            asked = [one for one in prepared for _ in range(choices)]
            requests = [_with_seed(one.request, place % choices) for place, one in enumerate(asked)]
            return Underway(self, asked, requests, started, self.timeout_seconds)

    async def _beside(self, work: Callable[[], T], answers: int, started: float) -> T:
        """What `work`, for so many answers, returns; it counts until its thread ends, also if nobody waits any more."""

        def ended(_: asyncio.Task[T]) -> None:
            self.preparing -= answers

        self.preparing += answers
        preparing = asyncio.create_task(run_beside_model(work))
        preparing.add_done_callback(ended)
        left = max(0.0, started + self.timeout_seconds - time.monotonic())
        try:
            return await asyncio.wait_for(asyncio.shield(preparing), left)
        except TimeoutError:
            raise AnswerTimeout(
                f"the question was not prepared within {self.timeout_seconds:g} s (serve.timeout_seconds)"
            ) from None

    async def call(self, work: Callable[[], T]) -> T:
        """Do something in the model thread, between two tokens. Raises AnswerTimeout, Overloaded."""
        return await self._soon(self.model_thread.call(work))

    async def _decoded(self, question: str, route: Route, sampling: Sampling, started: float) -> Decoded:
        """What the model says, without an answer being made of it."""
        prepare = partial(self.answerer.prepare, [(question, route)], sampling)
        [prepared] = await self._beside(prepare, 1, started)
        return (await self._soon(self.model_thread.submit([prepared.request]))).decoded[0]

    async def _soon(self, future: Future[T]) -> T:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.timeout_seconds)
        except TimeoutError:
            raise AnswerTimeout(
                f"the model was busy for {self.timeout_seconds:g} s (serve.timeout_seconds)"
            ) from None

    @contextmanager
    def counted(self, route: str) -> Iterator[None]:
        """Count what fails inside the block for the metrics."""
        try:
            yield
        except BaseException as error:
            self.metrics.failures.labels(route, type(error).__name__).inc()
            raise


def _with_seed(request: GenerationRequest, choice: int) -> GenerationRequest:
    """The request for one of several choices, which differ by their seed."""
    if choice == 0:
        return request
    seed = (request.sampling.seed + choice) % 2**63
    return replace(request, sampling=replace(request.sampling, seed=seed))
