"""`/v1/experiments`: start, look at and stop experiments on real traffic, and take out what went wrong in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from service.answering import UnknownRoute
from service.experiments import PREFIX, Experiment, Experiments
from service.experiments_schemas import (
    ExperimentBody,
    ExperimentEntry,
    ExperimentList,
    ExperimentRequest,
    StopRequest,
)
from service.feedback import Feedback, RejectedAnswer
from service.live import LiveAnswerer

ExperimentName = Annotated[str, Path(pattern="^[a-z0-9][a-z0-9-]{0,63}$")]


def experiments_router(live: LiveAnswerer, experiments: Experiments, feedback: Feedback) -> APIRouter:
    """`/v1/experiments`."""
    router = APIRouter(prefix="/v1/experiments", tags=["experiments"])

    def shown(experiment: Experiment) -> ExperimentBody:
        counts, findings = experiments.counts(experiment), experiments.findings(experiment)
        return ExperimentBody.with_findings(experiment, counts, findings)

    @router.post("", status_code=201)
    async def create(body: ExperimentRequest, response: Response) -> ExperimentBody:
        """Split the users of `experiment:NAME` between routes, from now on."""
        for route in body.routes:
            if route.startswith(PREFIX):
                raise UnknownRoute(f"an experiment is no route to try: {route!r}; name routes")
            live.require_route(route)

        def start() -> ExperimentBody:
            return shown(experiments.create(body.name, body.routes, body.margin, body.alpha))

        started = await run_in_threadpool(start)
        response.headers["Location"] = f"/v1/experiments/{body.name}"
        return started

    @router.get("")
    async def listed() -> ExperimentList:
        """Every experiment with the traffic of its routes, the latest first."""

        def read() -> list[ExperimentEntry]:
            return [ExperimentEntry.of(one, experiments.counts(one)) for one in experiments.listed()]

        return ExperimentList(experiments=await run_in_threadpool(read))

    @router.get("/{name}")
    async def get(name: ExperimentName) -> ExperimentBody:
        """What an experiment shows so far, and whether to go on; look as often as you like."""
        return await run_in_threadpool(lambda: shown(experiments.get(name)))

    @router.post("/{name}/stop")
    async def stop(name: ExperimentName, body: StopRequest | None = None) -> ExperimentBody:
        """End an experiment; one of its routes answers whoever still asks for it."""

        def end() -> ExperimentBody:
            asked = body.route if body is not None else None
            successor = _successor(experiments.get(name), experiments, asked)
            return shown(experiments.stop(name, successor))

        return await run_in_threadpool(end)

    @router.get(
        "/{name}/failures",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/x-ndjson": {}}}},
    )
    async def failures(name: ExperimentName) -> StreamingResponse:
        """Questions with answers that were called bad, a JSON line each, in quarantine: no answers, split dev."""

        def read() -> list[str]:
            experiments.get(name)
            ids = experiments.exposure_ids(name)
            return list(quarantined(name, [r for r in feedback.failures() if r.id.partition(".")[0] in ids]))

        return StreamingResponse(
            iter(await run_in_threadpool(read)),
            media_type="application/x-ndjson",
            headers={"Content-Disposition": 'attachment; filename="quarantine.jsonl"'},
        )

    return router


def quarantined(experiment: str, rejected: list[RejectedAnswer]) -> Iterator[str]:
    """A line of a question file for every question: without `answers`, so that it is refused until a person adds them.

    The split is dev whatever happens: questions chosen because a route failed at them would make a biased test.
    """
    by_question: dict[str, list[RejectedAnswer]] = {}
    for one in rejected:
        by_question.setdefault(one.question, []).append(one)
    for question, answers in by_question.items():
        line = {
            "question": question,
            "split": "dev",
            "quarantined": True,
            "experiment": experiment,
            "rejected": [
                {"route": a.route, "answer": a.answer, "document_ids": list(a.document_ids)} for a in answers
            ],
        }
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _successor(experiment: Experiment, experiments: Experiments, asked: str | None) -> str:
    if asked is not None:
        if asked not in experiment.shares:
            known = ", ".join(experiment.shares)
            raise UnknownRoute(f"route {asked!r} is not part of {experiment.name!r}; it has {known}")
        return asked
    findings = experiments.findings(experiment)
    return findings.arms[0] if findings.advice == "better" else next(iter(experiment.shares))
