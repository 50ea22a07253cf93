"""OpenAI's responses, with what routes add to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

from service.answer import Citation


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


class TopLogprob(BaseModel):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    """A token of the answer, and the likeliest ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Every token of the answer."""

    content: list[ChatLogprob]


class ChatAnswer(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Annotation]


class ChatChoice(BaseModel):
    """One completion."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """OpenAI's chat completion; `citations` (those of the first choice) is ours."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    citations: list[Citation]


class ChatDelta(BaseModel):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    annotations: list[Annotation] | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialise(self).items() if value is not None}


class ChatChunkChoice(BaseModel):
    """What a chunk adds to one choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    """One event of a streamed chat completion; `citations` (ours) comes with the end of each choice."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    citations: list[Citation] | None = None


class CompletionLogprobs(BaseModel):
    """Every token of the text, with the likeliest ones at its place."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text; streamed, the next piece of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class CompletionResponse(BaseModel):
    """OpenAI's plain completion, whole or as one event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class EmbeddingItem(BaseModel):
    """One vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Vectors in the order of the texts, normalised."""

    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingItem]
    usage: EmbeddingUsage


class Model(BaseModel):
    """A route as OpenAI's model, with vLLM's `root` and `parent`; what follows is ours.

    `identity` is a hash of all that its answers depend on: while it stays, the same question gets the same answer.
    """

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["openbook"] = "openbook"
    root: str
    """The base model, or the adapter version (`name@version`) that stands on it."""
    parent: str | None
    """The base model, where the route uses an adapter."""
    max_model_len: int
    retrieve: bool
    k: int
    adapter: str | None
    prompt: str
    examples: int
    max_new_tokens: int
    identity: str | None
    """None while the route cannot answer, for example because its adapter is missing."""


class AutoModel(BaseModel):
    """The choice among `routes`, as OpenAI's model; answers name the route that was taken."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["openbook"] = "openbook"
    root: str
    parent: None = None
    max_model_len: int
    routes: list[str]
    identity: str | None
    """As a route's; None if a route has changed since the choice was trained, so that it is refused."""
    stale: str
    """How the documents differ from those that the choice was trained over; empty if they do not."""


class ModelList(BaseModel):
    """Every route, and the choice among them if one is trained."""

    object: Literal["list"] = "list"
    data: list[Model | AutoModel]
