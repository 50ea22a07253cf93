"""Token prompts to the `/v1/completions` of an OpenAI-compatible server, and its streamed answers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from indexer.config import RemoteConfig
from service.generation import GenerationRequest
from tuner.decoding import Decoded, TokenLogprob

log = logging.getLogger("openbook.service")

CONNECT_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 30.0
BUSY = (429, 502, 503, 504)
"""Statuses after which the same request may succeed."""
_TOKEN_ID = "token_id:"  # noqa: S105 - how vLLM writes a token's number where others write its text

OnProgress = Callable[[str, int], None]
"""Called with the answer so far and how many pieces it came in."""


class RemoteError(RuntimeError):
    """The server did not answer as it should; asking again will not help."""


class RemoteUnavailable(RemoteError):
    """The server is down or busy; try again after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class CompletionsClient:
    """One server with a bounded number of connections; belongs to the event loop that uses it."""

    def __init__(self, config: RemoteConfig, key: str | None, first_pause_seconds: float = 0.5) -> None:
        """Pauses between tries double from `first_pause_seconds` on, each drawn between half and the whole."""
        self._config = config
        self._first_pause_seconds = first_pause_seconds
        self._randomness = random.Random()
        self._places = asyncio.Semaphore(config.connections)
        self._http = httpx.AsyncClient(
            base_url=config.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(config.timeout_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=config.connections + 1),
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def complete(self, model: str, request: GenerationRequest, on_progress: OnProgress) -> Decoded:
        """Continue the prompt by `model`; cancelling closes the connection, upon which servers stop generating.

        A request is sent again only while nothing of its answer has come. Raises RemoteError, RemoteUnavailable.
        """
        async with self._places:
            tries = 0
            while True:
                try:
                    return await self._once(model, request, on_progress)
                except _TryAgain as problem:
                    if tries == self._config.retries:
                        seconds = problem.retry_after_seconds or LONGEST_PAUSE_SECONDS / 6
                        raise RemoteUnavailable(f"{self._config.url} {problem}", round(seconds)) from problem
                    pause = self._pause_seconds(tries, problem.retry_after_seconds)
                    log.info("the remote server %s; trying again in %.1f s", problem, pause)
                await asyncio.sleep(pause)
                tries += 1

    def _pause_seconds(self, tries: int, asked: float) -> float:
        longest = self._first_pause_seconds * 2**tries
        # Not all at the same moment: those who were turned away together would come back together.
        return min(asked + self._randomness.uniform(longest / 2, longest), LONGEST_PAUSE_SECONDS)

    async def _once(self, model: str, request: GenerationRequest, on_progress: OnProgress) -> Decoded:
        reply = _Reply(request)
        try:
            async with self._http.stream("POST", "completions", json=_body(model, request)) as response:
                await self._require_stream(response, model)
                async for line in response.aiter_lines():
                    if line.startswith("data:") and reply.take(line.removeprefix("data:").strip()):
                        on_progress(reply.text, reply.pieces)
        except httpx.ConnectTimeout as error:
            raise _TryAgain("cannot be reached (no connection)") from error
        except httpx.TimeoutException as error:
            raise RemoteUnavailable(
                f"{self._config.url} was silent for {self._config.timeout_seconds:g} s "
                "(model.remote.timeout_seconds)",
                round(LONGEST_PAUSE_SECONDS),
            ) from error
        except httpx.TransportError as error:
            raise self._broken_off(reply, type(error).__name__) from error
        except ValidationError:
            # Not chained: pydantic quotes what it was given, and that may be text.
            raise RemoteError(f"{self._config.url} sent something that is no completion event") from None
        if reply.failed:
            raise RemoteError(f"{self._config.url} failed in the middle of an answer; its log says why")
        if reply.finish_reason is None:
            raise self._broken_off(reply, "no end")
        return reply.decoded(self._config.url)

    def _broken_off(self, reply: _Reply, how: str) -> Exception:
        if not reply.pieces:
            return _TryAgain(f"cannot be reached ({how})")
        return RemoteError(f"{self._config.url} broke off in the middle of an answer ({how})")

    async def _require_stream(self, response: httpx.Response, model: str) -> None:
        """Raise what a response that is no stream means; never with its text, which may hold a prompt or a key."""
        status, url = response.status_code, self._config.url
        if status in BUSY:
            asked = response.headers.get("Retry-After", "")
            raise _TryAgain(f"answered {status}", float(asked) if asked.isdigit() else 0.0)
        if status in (401, 403):
            raise RemoteError(
                f"{url} refused the key ({status}); is {self._config.api_key_env} set to one of its keys?"
            )
        if status == 404:
            raise RemoteError(f"{url} has no model {model!r}{await self._known_models()}")
        if status in (400, 413, 422):
            raise RemoteError(
                f"{url} did not accept the request ({status}); its log says why. If it reads shorter prompts than "
                "the model can, set model.remote.context_tokens"
            )
        if status != 200:
            raise RemoteError(f"{url} answered {status}; its log says why")
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise RemoteError(f"{url} did not stream; is it an OpenAI-compatible server, up to and with /v1?")

    async def _known_models(self) -> str:
        try:
            models = (await self._http.get("models")).json()["data"]
            names = ", ".join(str(model["id"]) for model in models)
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return "; is model.remote.url right, up to and with /v1?"
        return f"; it has {names}: set model.remote.model or model.remote.adapters accordingly"


class _TryAgain(Exception):
    """Nothing has come yet, and the next try may succeed."""

    def __init__(self, problem: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after_seconds = retry_after_seconds


def _body(model: str, request: GenerationRequest) -> dict[str, Any]:
    """The prompt as token ids, so that the server reads exactly what the model would read here."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(request.prompt),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.ignore_eos:
        body["ignore_eos"] = True
    if sampling.logprobs is not None:
        body |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    return body


class _Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(BaseModel):
    text: str = ""
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    completion_tokens: int


class _Event(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Reply:
    """One streamed answer, as far as it has come."""

    def __init__(self, request: GenerationRequest) -> None:
        self.pieces = 0
        self.finish_reason: str | None = None
        self.failed = False
        self._request = request
        self._raw = ""
        self._tokens: int | None = None
        self._logprobs: list[_Logprobs] = []

    @property
    def text(self) -> str:
        """What no later piece can change; servers hold back what may become a stop string."""
        return self._cut().rstrip("\ufffd").strip()

    def take(self, data: str) -> bool:
        """Take in an event; whether the answer has grown. Raises ValidationError."""
        if data == "[DONE]":
            return False
        event = _Event.model_validate_json(data)
        self.failed = self.failed or event.error is not None
        if event.usage is not None:
            self._tokens = event.usage.completion_tokens
        for choice in event.choices:
            self._raw += choice.text
            self.pieces += bool(choice.text)
            self.finish_reason = choice.finish_reason or self.finish_reason
            if choice.logprobs is not None:
                self._logprobs.append(choice.logprobs)
        return any(choice.text for choice in event.choices)

    def decoded(self, url: str) -> Decoded:
        """The whole answer; servers that report no usage are taken to send a token a piece. Raises RemoteError."""
        if self.finish_reason not in ("stop", "length"):
            raise RemoteError(f"{url} ended an answer with {self.finish_reason!r}")
        return Decoded(
            text=self._cut().strip(),
            prompt_tokens=len(self._request.prompt),
            completion_tokens=self.pieces if self._tokens is None else self._tokens,
            finish_reason="stop" if self.finish_reason == "stop" else "length",
            logprobs=self._token_logprobs(url),
        )

    def _cut(self) -> str:
        text = self._raw
        for stop in self._request.sampling.stop:
            text = text.split(stop, 1)[0]
        return text

    def _token_logprobs(self, url: str) -> tuple[TokenLogprob, ...]:
        asked = self._request.sampling.logprobs
        if asked is None:
            return ()
        try:
            return tuple(
                TokenLogprob(_token_id(token), logprob, _likeliest(top or {}, asked))
                for part in self._logprobs
                for token, logprob, top in zip(
                    part.tokens,
                    part.token_logprobs,
                    part.top_logprobs or [None] * len(part.tokens),
                    strict=True,
                )
            )
        except ValueError as error:
            raise RemoteError(
                f"{url} does not say which tokens its log-probabilities belong to (return_tokens_as_token_ids)"
            ) from error


def _likeliest(top: Mapping[str, float], asked: int) -> tuple[tuple[int, float], ...]:
    ranked = sorted(top.items(), key=lambda pair: -pair[1])[:asked]
    return tuple((_token_id(token), logprob) for token, logprob in ranked)


def _token_id(token: str) -> int:
    if not token.startswith(_TOKEN_ID):
        raise ValueError(token)
    return int(token.removeprefix(_TOKEN_ID))
