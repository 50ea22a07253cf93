"""What clients send and get; answers themselves go out as `service.answering.Answer`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.answering import Answer, Citation
from service.errors import ErrorDetail

QuestionText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]
StopString = Annotated[str, StringConstraints(min_length=1)]


class AnswerRequest(BaseModel):
    """A question for one route."""

    model_config = ConfigDict(extra="forbid")

    question: QuestionText
    route: str


class CompareRequest(BaseModel):
    """A question for several routes; all of them if `routes` is left out."""

    model_config = ConfigDict(extra="forbid")

    question: QuestionText
    routes: list[str] | None = Field(default=None, min_length=1, max_length=32)


class Comparison(BaseModel):
    """What one route made of the question: an answer, or the reason why there is none."""

    route: str
    answer: Answer | None
    error: ErrorDetail | None


class CompareResponse(BaseModel):
    """One entry a route, in the order asked."""

    question: str
    results: list[Comparison]


class DocumentResponse(BaseModel):
    """A document as indexed; citations give offsets into `text`."""

    id: str
    title: str
    text: str


class Health(BaseModel):
    """Whether the process runs, or the model answers."""

    status: Literal["ok", "not ready"]


class TextPart(BaseModel):
    """A piece of a chat message; only text can be read."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(BaseModel):
    """OpenAI's chat completion request: the last user message is the question, `model` names the route.

    Unsupported settings that would change the answer are refused; all others (`user`, …) are ignored.
    """

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """Unlike OpenAI's, 0 if left out: the same question gets the same answer."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    n: Literal[1] = 1
    stream: bool = False
    tools: None = None
    logprobs: Literal[False] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)

    def question(self) -> str:
        """The last user message; empty if there is none."""
        return next((m.text().strip() for m in reversed(self.messages) if m.role == "user"), "")

    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple, however it was sent."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class UrlCitation(BaseModel):
    """Which part of the message a document supports; `url` gives the document, with the chunk as fragment."""

    start_index: int
    end_index: int
    title: str
    url: str


class Annotation(BaseModel):
    """OpenAI's wrapper around a citation."""

    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitation


class ChatAnswer(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Annotation]


class Choice(BaseModel):
    """The one completion."""

    index: int = 0
    message: ChatAnswer
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """OpenAI's chat completion; `citations` is ours."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    citations: list[Citation]


class Model(BaseModel):
    """A route as OpenAI's model; `retrieve` and `adapter` are ours."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["openbook"] = "openbook"
    retrieve: bool
    adapter: str | None


class ModelList(BaseModel):
    """Every route."""

    object: Literal["list"] = "list"
    data: list[Model]
