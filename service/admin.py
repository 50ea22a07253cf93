"""Looking after a service over HTTP: adapters, jobs, evaluations and feedback."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from indexer.database import IndexMissing
from indexer.snapshot import Snapshot
from service.admin_schemas import (
    AdapterEntry,
    AdapterList,
    Curve,
    CurvePoint,
    EvaluationEntry,
    EvaluationList,
    EvaluationSummary,
    FeedbackResponse,
    JobBody,
    JobList,
    PreferenceRequest,
    RatingRequest,
)
from service.answer import Answer
from service.errors import UnsupportedParameter, error_response
from service.feedback import as_line
from service.generation import LocalGenerator
from service.jobs import JobKind
from service.live import LiveAnswerer
from service.openai_replies import CHAT_ID, COMPLETION_ID
from service.remote import RemoteGenerator
from service.workbench import REPORT, RESULT, Workbench, evaluation_file, read_evaluations
from tuner.loading import ResidentAdapters
from tuner.registry import AdapterError, AdapterVersion, Registry, check_adapter
from tuner.trained_on import staleness

log = logging.getLogger("openbook.service")

T = TypeVar("T")
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "sandbox allow-scripts allow-downloads"
)
"""Reports narrow this down to their own style and script; the sandbox keeps them away from the service's origin."""
"""A report shows answers and passages: nothing in it may run."""

AdapterName = Annotated[str, Path(pattern="^[a-z0-9][a-z0-9-]{0,63}$")]
Version = Annotated[int, Path(ge=1, le=10**9)]
JobId = Annotated[str, Path(pattern="^[0-9a-f]{1,64}$")]
EvaluationName = Annotated[str, Path(pattern="^[0-9a-f]{1,64}$")]


def adapters_router(live: LiveAnswerer, bench: Workbench) -> APIRouter:
    """`/v1/adapters`."""
    router = APIRouter(prefix="/v1/adapters", tags=["adapters"])
    registry = Registry(bench.workspace.adapters)

    def entry(adapter: AdapterVersion, hashes: dict[str, str] | None) -> AdapterEntry:
        return _entry(adapter, registry, _loaded(live), hashes)

    async def on_model_thread(work: Callable[[ResidentAdapters], T]) -> T:
        """Do something with the adapters in memory between two tokens."""
        generator = live.answerer.generator
        if not isinstance(generator, LocalGenerator):
            raise UnsupportedParameter(
                "adapter", "the model runs elsewhere, where adapters are loaded by its server"
            )
        return await live.call(lambda: work(generator.adapters))

    @router.get("")
    async def list_adapters() -> AdapterList:
        """Every version, with its dev scores and whether its documents have changed since."""

        def read() -> list[AdapterEntry]:
            hashes = _content_hashes(bench)
            entries = []
            for key in [
                f"{name}@{version}" for name in registry.names() for version in registry.versions(name)
            ]:
                try:
                    entries.append(entry(registry.resolve(key), hashes))
                except AdapterError as error:  # deleted just now, or damaged: no reason to hide the others
                    log.warning("adapter %s is not listed: %s", key, error)
            return entries

        return AdapterList(adapters=await run_in_threadpool(read))

    @router.get("/{name}/{version}/curve")
    async def curve(name: AdapterName, version: Version) -> Curve:
        """Loss and dev scores in the course of training."""

        def read() -> list[CurvePoint]:
            file = registry.resolve(f"{name}@{version}").path / "curve.json"
            return [CurvePoint(**point) for point in json.loads(file.read_text())] if file.is_file() else []

        return Curve(points=await run_in_threadpool(read))

    @router.post("/{name}/{version}/promote")
    async def promote(name: AdapterName, version: Version) -> AdapterEntry:
        """Make it the version that routes use, from the next question on."""

        def write() -> AdapterEntry:
            adapter = registry.resolve(f"{name}@{version}")
            generator = live.answerer.generator
            if isinstance(generator, RemoteGenerator):  # whose server has a copy of the weights of its own
                generator.require_served(adapter.key)
            else:
                check_adapter(adapter, live.answerer.base.name, live.answerer.base.hash)
            registry.promote(name, version)
            return entry(adapter, _content_hashes(bench))

        return await run_in_threadpool(write)

    @router.post("/{name}/{version}/load")
    async def load(name: AdapterName, version: Version) -> AdapterEntry:
        """Take it into memory, so that the first answer with it need not wait for that."""
        adapter = await run_in_threadpool(registry.resolve, f"{name}@{version}")
        await on_model_thread(lambda adapters: adapters.use(adapter.key))
        return await run_in_threadpool(lambda: entry(adapter, _content_hashes(bench)))

    @router.post("/{name}/{version}/unload")
    async def unload(name: AdapterName, version: Version) -> AdapterEntry:
        """Give its memory back; the next answer with it loads it again."""
        adapter = await run_in_threadpool(registry.resolve, f"{name}@{version}")
        await on_model_thread(lambda adapters: adapters.forget(adapter.key))
        return await run_in_threadpool(lambda: entry(adapter, _content_hashes(bench)))

    return router


def jobs_router(bench: Workbench) -> APIRouter:
    """`/v1/jobs` and `/v1/evaluations`."""
    router = APIRouter(prefix="/v1", tags=["jobs"])

    @router.get("/jobs")
    async def jobs() -> JobList:
        """The latest jobs, newest first."""
        return JobList(jobs=[JobBody.of(job) for job in await run_in_threadpool(bench.jobs.list)])

    @router.get("/jobs/{job_id}")
    async def job(job_id: JobId) -> JobBody:
        """How far a job is."""
        return JobBody.of(await run_in_threadpool(bench.jobs.get, job_id))

    @router.post("/jobs/{job_id}/cancel")
    async def cancel(job_id: JobId) -> JobBody:
        """Give a job up; what an evaluation was answered so far is kept for the next one."""
        return JobBody.of(await run_in_threadpool(bench.jobs.cancel, job_id))

    @router.post("/evaluations", status_code=202)
    async def start(response: Response) -> JobBody:
        """Ask every route the test questions, as a job; one under way is not started twice."""
        started = JobBody.of(await run_in_threadpool(bench.jobs.submit, JobKind.EVALUATION))
        response.headers["Location"] = f"/v1/jobs/{started.id}"
        return started

    @router.get("/evaluations")
    async def evaluations() -> EvaluationList:
        """Every finished evaluation in short, the latest first."""
        found = await run_in_threadpool(read_evaluations, bench.workspace)
        return EvaluationList(evaluations=[_summary(*one) for one in found])

    @router.get("/evaluations/{name}")
    async def evaluation(name: EvaluationName) -> EvaluationEntry:
        """A finished evaluation with its whole result."""
        path = evaluation_file(bench.workspace, name, RESULT)
        result = json.loads(await run_in_threadpool(path.read_text))
        return EvaluationEntry(name=name, finished=path.stat().st_mtime, result=result)

    @router.get(
        "/evaluations/{name}/report",
        response_class=Response,
        responses={200: {"content": {"text/html": {}}}},
    )
    async def report(name: EvaluationName) -> HTMLResponse:
        """The report as one HTML page that needs nothing else."""
        path = evaluation_file(bench.workspace, name, REPORT)
        html = await run_in_threadpool(path.read_text)
        return HTMLResponse(html, headers={"Content-Security-Policy": REPORT_POLICY})

    return router


def feedback_router(live: LiveAnswerer, bench: Workbench) -> APIRouter:
    """`/v1/feedback`."""
    router = APIRouter(prefix="/v1", tags=["feedback"])

    @router.post("/feedback", response_model=FeedbackResponse, status_code=201)
    async def give(body: RatingRequest | PreferenceRequest) -> FeedbackResponse | JSONResponse:
        """Say what an answer is worth, or which of two is better; answers are named by their `id`."""
        ids = [body.answer] if isinstance(body, RatingRequest) else [body.preferred, body.rejected]
        ids = [answer_id.removeprefix(CHAT_ID).removeprefix(COMPLETION_ID) for answer_id in ids]
        answers = await run_in_threadpool(lambda: [_remembered(live, answer_id) for answer_id in ids])
        known = [answer for answer in answers if answer is not None]
        good = body.rating == "good" if isinstance(body, RatingRequest) else True
        if len(known) < len(ids):
            # An experiment knows its answers after their texts are forgotten.
            if isinstance(body, RatingRequest) and await run_in_threadpool(_judge, live, ids, good):
                return FeedbackResponse(id=ids[0])
            return error_response(
                404,
                "that answer is not among the latest ones; ask again, then say what you think",
                "answer_not_found",
            )
        feedback_id = await run_in_threadpool(_keep, bench, body, known)
        await run_in_threadpool(_judge, live, ids, good)
        return FeedbackResponse(id=feedback_id)

    @router.get(
        "/feedback/export",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/x-ndjson": {}}}},
    )
    async def export() -> StreamingResponse:
        """Preference pairs for TRL, a JSON line each: `prompt`, `chosen` and `rejected` as messages."""
        pairs = await run_in_threadpool(lambda: [as_line(pair) for pair in bench.feedback.pairs()])
        return StreamingResponse(
            iter(pairs),
            media_type="application/x-ndjson",
            headers={"Content-Disposition": 'attachment; filename="preferences.jsonl"'},
        )

    return router


def _remembered(live: LiveAnswerer, answer_id: str) -> Answer | None:
    """The answer of that id, unless it is forgotten or was shown a document that is gone by now."""
    answer = live.recent.get(answer_id)
    shown = {citation.document_id for citation in answer.contexts} if answer else set()
    return None if any(live.answerer.document(document_id) is None for document_id in shown) else answer


def _keep(bench: Workbench, body: RatingRequest | PreferenceRequest, answers: list[Answer]) -> str:
    if isinstance(body, RatingRequest):
        return bench.feedback.rate(answers[0], 1 if body.rating == "good" else -1)
    return bench.feedback.prefer(*answers)


def _judge(live: LiveAnswerer, ids: list[str], good: bool) -> bool:
    """Tell the experiment that gave these answers: one is good or bad, or the first of two is the better one."""
    experiments = live.experiments
    if experiments is None:
        return False
    told = experiments.prefer(*ids) if len(ids) > 1 else [experiments.record(ids[0], good)]
    for outcome in told:
        if outcome is not None:
            said = "good" if outcome.good else "bad"
            live.metrics.experiment_outcomes.labels(outcome.experiment, outcome.arm, said).inc()
    return any(experiments.knows(answer_id) for answer_id in ids)


def _loaded(live: LiveAnswerer) -> tuple[str, ...]:
    generator = live.answerer.generator
    return generator.adapters.loaded if isinstance(generator, LocalGenerator) else ()


def _content_hashes(bench: Workbench) -> dict[str, str] | None:
    try:
        snapshot = Snapshot(bench.workspace.database)
    except IndexMissing:
        return None
    try:
        return snapshot.content_hashes()
    finally:
        snapshot.close()


def _entry(
    adapter: AdapterVersion, registry: Registry, loaded: tuple[str, ...], hashes: dict[str, str] | None
) -> AdapterEntry:
    manifest, gates = adapter.manifest, registry.gates(adapter)
    stale = staleness(adapter, hashes) if hashes is not None else None
    return AdapterEntry(
        name=adapter.name,
        version=adapter.version,
        promoted=registry.promoted(adapter.name) == adapter.version,
        loaded=adapter.key in loaded,
        recipe=manifest.recipe,
        method=manifest.method,
        base_model=manifest.base_model,
        created=manifest.created,
        tokens=manifest.tokens,
        seconds=manifest.seconds,
        dev_scores=manifest.dev_scores,
        gate_failures=None if gates is None else list(gates.failures),
        stale=stale.describe(manifest.corpus_generation) if stale else "",
    )


def _summary(name: str, finished: float, result: dict[str, Any]) -> EvaluationSummary:
    return EvaluationSummary(
        name=name,
        finished=finished,
        questions=max((route["n"] for route in result["routes"].values()), default=0),
        recommended=result["verdict"]["recommended"],
        reason=result["verdict"]["reason"],
    )
