"""OpenAI's requests and responses, as far as routes can serve them.

Optional parameters may be null, as OpenAI's clients send them. Settings that would change the answer and are not
offered are refused by name; all others (`user`, `metadata`, ...) are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from service.answering import Citation

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_INPUTS = 256
MAX_PROMPTS = 16
MAX_TOP_LOGPROBS = 20

StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Stop = StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)]
ASK: dict[str, Any] = {
    "model": "hybrid",
    "messages": [{"role": "user", "content": "Who leads the Capsule Hospital?"}],
}


class StreamOptions(BaseModel):
    """What a stream says beside the text."""

    include_usage: bool | None = None


class SamplingRequest(BaseModel):
    """What chat and plain completions have in common."""

    model: str = Field(description="The name of a route.")
    temperature: float | None = Field(default=None, ge=0.0, le=2.0, allow_inf_nan=False)
    """Unlike OpenAI's, 0 if left out: the same question gets the same answer."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)

    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple, however it was sent."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wants_usage(self) -> bool:
        """Whether a stream ends with the tokens used."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(BaseModel):
    """A piece of a chat message; only text can be read."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[TextPart], Field(max_length=64)] | None = None

    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(SamplingRequest):
    """A chat completion: the last user message is the question, `model` names the route.

    A message that leans on earlier ones ("and how high is it?") is answered together with them. System messages are
    ignored: the route has its own instructions.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [ASK]})

    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[None] | None = Field(default=None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    def user_messages(self) -> list[str]:
        """What the user said, oldest first."""
        return [message.text() for message in self.messages if message.role == "user"]


class CompletionRequest(SamplingRequest):
    """A plain completion: each prompt is a question for the route that `model` names."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "rag", "prompt": "Who leads the Capsule Hospital?"}]}
    )

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None

    def prompts(self) -> list[str]:
        """`prompt` as a list, however it was sent."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class EmbeddingRequest(BaseModel):
    """Texts for the encoder that the index is built with."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "all-minilm-l6-v2", "input": ["a text", "another"]}]}
    )

    model: str
    input: (
        Annotated[str, StringConstraints(min_length=1)]
        | Annotated[
            list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=MAX_INPUTS)
        ]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)

    def texts(self) -> list[str]:
        """`input` as a list, however it was sent."""
        return [self.input] if isinstance(self.input, str) else self.input


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


class ModelList(BaseModel):
    """Every route."""

    object: Literal["list"] = "list"
    data: list[Model]
