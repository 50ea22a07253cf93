"""Every error as OpenAI's error object; one table says which exception is which HTTP status."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexer.corpus import CorpusError
from indexer.database import IndexDamaged, IndexMissing, IndexUnwritable
from indexer.documents import DocumentOfFolder, DocumentUnknown
from indexer.locking import IndexBusy
from service.admission import Overloaded, TooMuchAtOnce
from service.answering import UnknownRoute
from service.completions_client import RemoteError, RemoteUnavailable
from service.disconnection import ClientLeft
from service.experiments import ExperimentConflict, UnknownExperiment
from service.feedback import FeedbackError
from service.jobs import JobsElsewhere, UnknownJob
from service.model_thread import GenerationFailed
from service.preparation import PromptTooLong
from service.router import RouterError
from service.underway import AnswerTimeout
from service.workbench import UnknownEvaluation
from tuner.prompt import PromptError
from tuner.registry import AdapterError

log = logging.getLogger("openbook.service")


class UnsupportedParameter(ValueError):
    """A request parameter, or a value of it, that this service does not offer."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's words."""

    message: str
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "rate_limit_error",
        "server_error",
    ]
    param: str | None = None
    code: str


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class Failure:
    """How an exception appears over HTTP."""

    status: int
    code: str


INDEX_BUSY_SECONDS = 5
"""When to try again while a sync writes the index."""

FAILURES: Mapping[type[Exception], Failure] = {
    UnknownRoute: Failure(404, "model_not_found"),
    RouterError: Failure(409, "router_stale"),
    AdapterError: Failure(404, "adapter_unavailable"),
    IndexMissing: Failure(404, "index_missing"),
    IndexBusy: Failure(503, "index_busy"),
    IndexDamaged: Failure(500, "index_damaged"),
    IndexUnwritable: Failure(507, "index_unwritable"),
    DocumentUnknown: Failure(404, "document_not_found"),
    DocumentOfFolder: Failure(409, "document_of_folder"),
    CorpusError: Failure(400, "invalid_document"),
    UnknownJob: Failure(404, "job_not_found"),
    JobsElsewhere: Failure(409, "jobs_elsewhere"),
    UnknownEvaluation: Failure(404, "evaluation_not_found"),
    UnknownExperiment: Failure(404, "experiment_not_found"),
    ExperimentConflict: Failure(409, "experiment_conflict"),
    FeedbackError: Failure(400, "invalid_feedback"),
    PromptTooLong: Failure(400, "context_length_exceeded"),
    PromptError: Failure(400, "invalid_prompt"),
    UnsupportedParameter: Failure(400, "unsupported_value"),
    TooMuchAtOnce: Failure(400, "too_much_at_once"),
    ClientLeft: Failure(499, "client_closed_request"),
    GenerationFailed: Failure(500, "generation_failed"),
    RemoteUnavailable: Failure(503, "remote_unavailable"),
    RemoteError: Failure(502, "remote_failed"),
    Overloaded: Failure(503, "overloaded"),
    AnswerTimeout: Failure(504, "timeout"),
}


_TYPES: Mapping[int, Literal["authentication_error", "permission_error", "rate_limit_error"]] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


def error_response(
    status: int,
    message: str,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error object; without a `code`, the name of the status (`not_found`)."""
    body = ErrorBody(error=error_detail(status, message, code, param))
    return JSONResponse(body.model_dump(), status, dict(headers or {}))


def error_detail(status: int, message: str, code: str | None = None, param: str | None = None) -> ErrorDetail:
    """The inside of an error object."""
    return ErrorDetail(
        message=message,
        type="server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error"),
        param=param,
        code=code or HTTPStatus(status).name.lower(),
    )


def failure_of(error: BaseException) -> Failure | None:
    """How the table says to report `error`; None for anything unforeseen."""
    return next((failure for kind, failure in FAILURES.items() if isinstance(error, kind)), None)


def add_error_handlers(app: FastAPI) -> None:
    """Make every response that is not a success carry an error object."""
    for kind in FAILURES:
        app.add_exception_handler(kind, _on_failure)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


class Unforeseen:
    """ASGI middleware: whatever no handler knows becomes a 500, which passes the guard and the access log.

    Starlette's own handler for it stands outside of all middleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; a response that has begun can only break off."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_noticed(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noticed)
        except Exception as error:
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error(  # noqa: TRY400 - the message may quote a document or a prompt
                "request failed: %s\n%s", type(error).__name__, where
            )
            if begun:
                raise
            response = error_response(500, "the service failed to answer; its log says why", "internal_error")
            await response(scope, receive, send)


async def _on_failure(_: Request, error: Exception) -> JSONResponse:
    failure = failure_of(error)
    assert failure is not None  # noqa: S101 - registered for exactly these
    param = error.param if isinstance(error, UnsupportedParameter) else None
    seconds = error.retry_after_seconds if isinstance(error, Overloaded | RemoteUnavailable) else None
    if isinstance(error, IndexBusy):
        seconds = INDEX_BUSY_SECONDS
    headers = {"Retry-After": str(seconds)} if seconds is not None else None
    return error_response(failure.status, str(error), failure.code, param, headers)


async def _on_invalid_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for exactly this
    first = error.errors()[0]
    # The parameter itself; what follows it are positions and the names of pydantic's own alternatives.
    param = next((part for part in first["loc"][1:2] if isinstance(part, str)), None)
    return error_response(400, f"{param or 'body'}: {first['msg']}", "invalid_value", param)


async def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for exactly this
    return error_response(error.status_code, str(error.detail), headers=error.headers)
