"""What clients send to openbook's own endpoints and get; answers go out as `service.answering.Answer`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.answer import Answer, Citation
from service.errors import ErrorDetail
from service.filters import Filter

QuestionText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]
UserName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class AnswerRequest(BaseModel):
    """A question for one route; with `stream` the answer comes as server-sent events."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"question": "When was service back after the flood?", "route": "hybrid"}]
        },
    )

    question: QuestionText
    route: str
    """Or `auto`, which takes a route for the question if a router is trained.

    Or `experiment:NAME`, which stands for one of the experiment's routes, always the same for a user.
    """
    user: UserName | None = None
    """Whom the answer is for, in an experiment: any name or number that stays the same."""
    where: Filter | None = None
    stream: bool | None = None


class CompareRequest(BaseModel):
    """A question for several routes, `auto` among them where it is named; all but `auto` if `routes` is left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"question": "When was service back after the flood?", "routes": ["rag", "hybrid"]}]
        },
    )

    question: QuestionText
    routes: list[str] | None = Field(default=None, min_length=1)
    where: Filter | None = None
    stream: bool | None = None


class Comparison(BaseModel):
    """What one route made of the question: an answer, or the reason why there is none."""

    route: str
    """As asked for; `answer.route` is the one that `auto` took."""
    answer: Answer | None
    error: ErrorDetail | None


class CompareResponse(BaseModel):
    """One entry a route, in the order asked."""

    question: str
    results: list[Comparison]


class ContextsEvent(BaseModel):
    """The first event of a route: the passages that its prompt shows."""

    type: Literal["contexts"] = "contexts"
    route: str
    contexts: list[Citation]


class TextEvent(BaseModel):
    """The next piece of a route's answer."""

    type: Literal["text"] = "text"
    route: str
    text: str


class AnswerEvent(BaseModel):
    """The last event of a route that answered: the whole answer."""

    type: Literal["answer"] = "answer"
    route: str
    answer: Answer


class ErrorEvent(BaseModel):
    """The last event of a route that could not answer."""

    type: Literal["error"] = "error"
    route: str
    error: ErrorDetail


StreamEvent = ContextsEvent | TextEvent | AnswerEvent | ErrorEvent


class DocumentResponse(BaseModel):
    """A document as indexed; citations give offsets into `text`."""

    id: str
    title: str
    text: str
    metadata: dict[str, str | bool | float] = {}


class Health(BaseModel):
    """Whether the process runs, or the model answers."""

    status: Literal["ok", "not ready"]
