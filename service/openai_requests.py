"""OpenAI's requests, as far as routes can serve them.

Optional parameters may be null, as OpenAI's clients send them. Settings that would change the answer and are not
offered are refused by name; all others (`metadata`, `store`, ...) are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.filters import Filter

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_INPUTS = 256
MAX_PROMPTS = 16
MAX_TOP_LOGPROBS = 20

Text = Annotated[str, StringConstraints(min_length=0)]
"""Constrained, if only in name, as pydantic lets half an emoji (a lone surrogate) through in a plain string."""
StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Stop = StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31, strict=True)]], Field(min_length=1)]
ASK: dict[str, Any] = {
    "model": "hybrid",
    "messages": [{"role": "user", "content": "When was service back after the flood?"}],
}


class StreamOptions(BaseModel):
    """What a stream says beside the text."""

    include_usage: bool | None = None


class SamplingRequest(BaseModel):
    """What chat and plain completions have in common."""

    model: str = Field(
        description="The name of a route, `auto` if a router is trained, or `experiment:NAME` for an experiment."
    )
    user: str | None = None
    """Whom the answer is for: in an experiment the same user always gets the same route."""
    temperature: float | None = Field(default=None, ge=0.0, le=2.0, allow_inf_nan=False)
    """Unlike OpenAI's, 0 if left out: the same question gets the same answer."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    ignore_eos: bool | None = None
    """As vLLM's: the answer goes on to `max_tokens` or a string of `stop`, whatever the model or the route would do."""
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    where: Filter | None = None
    """Not OpenAI's: restricts what is looked up (`extra_body={"where": {...}}` in their client)."""
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
    text: Text


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | Annotated[list[TextPart], Field(max_length=64)] | None = None

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
    """A plain completion: each prompt is a question for the route that `model` names.

    A prompt of token ids is no question but the whole prompt: it is continued as it is by the route's model.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "rag", "prompt": "When was service back after the flood?"}]}
    )

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    return_tokens_as_token_ids: bool | None = None
    """As vLLM's: log-probabilities name tokens as `token_id:123` instead of by their text."""
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None

    def questions(self) -> list[str]:
        """The prompts that are text, however they were sent."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return [prompt for prompt in prompts if isinstance(prompt, str)]

    def token_prompts(self) -> list[list[int]]:
        """The prompts that are token ids, however they were sent."""
        if isinstance(self.prompt, str):
            return []
        alone = [token for token in self.prompt if isinstance(token, int)]
        return [alone] if alone else [prompt for prompt in self.prompt if isinstance(prompt, list)]


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
