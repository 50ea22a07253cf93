"""Answers from a running openbook service, for scoring it as its users meet it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import cached_property
from typing import Any

import httpx
from pydantic import TypeAdapter, ValidationError

from eval.answers import EvalError
from eval.provenance import Setup
from indexer.files import hash_text
from service.answer import Answer
from service.routes import Route

PARALLEL = 4
ATTEMPTS = 5
LONGEST_WAIT_SECONDS = 30.0

_PROBE = "What is this about?"
_OPENAI_KEYS = ("id", "object", "created", "owned_by")
_ROUTE_FIELDS = {field.name for field in fields(Route)} - {"name"}
_ANSWER = TypeAdapter(Answer)


class HttpAsker:
    """Posts questions to `/v1/answer`; what its routes are, and what is behind them, is what the service says.

    Answers are kept for later runs only if the service publishes the `identity` of its routes, a hash of all that
    their answers depend on. Without it nobody could tell a stale answer, so none is used again.
    """

    parallel = PARALLEL

    def __init__(self, client: httpx.Client) -> None:
        """`client` carries the base URL, the key and the timeout: see `open_client`."""
        self._client = client
        self._unpublished = uuid.uuid4().hex

    @cached_property
    def setup(self) -> Setup:
        """What is behind the service, learnt from its list of routes and by asking each of them once."""
        probes = self.answer_many([(_PROBE, route) for route in self.routes().values()])
        adapters = {answer.route: answer.adapter for answer in probes if answer.adapter is not None}
        generation = next((a.generation for a in probes if a.generation is not None), None)
        url = str(self._client.base_url)
        return Setup(
            source=url,
            base_model=probes[0].base_model,
            base_model_hash=f"{probes[0].base_model} at {url}",
            adapters=adapters,
            adapter_hashes={name: f"{adapter} at {url}" for name, adapter in adapters.items()},
            corpus_hash=None if generation is None else f"generation {generation} at {url}",
            index_generation=generation,
            making="",
            examples_hash=url,
            published=self._published,
        )

    def routes(self) -> dict[str, Route]:
        """The routes that can answer, as far as the service describes them, and `auto` if it is offered."""
        plain = {
            name: Route(name, **{key: value for key, value in options.items() if key in _ROUTE_FIELDS})
            for name, options in self._published.items()
            if "retrieve" in options
        }
        choices = {
            name: _choice(name, [plain[taken] for taken in options["routes"] if taken in plain])
            for name, options in self._published.items()
            if "retrieve" not in options
        }
        return plain | choices

    def answer_many(self, pairs: Sequence[tuple[str, Route]]) -> list[Answer]:
        """Answer in order, a few at a time, waiting when the service says that it is busy."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self._answer, pairs))

    def keys(self, pairs: Sequence[tuple[str, Route]]) -> list[str]:
        """Hash of question, route and the identity that the service publishes for it."""
        identities = {
            name: str(options.get("identity") or self._unpublished)
            for name, options in self._published.items()
        }
        return [hash_text(question, route.name, identities[route.name]) for question, route in pairs]

    @cached_property
    def _published(self) -> dict[str, dict[str, Any]]:
        """By route, what `/v1/models` says of it beside what OpenAI's schema has."""
        response = self._get("/v1/models")
        if not response.is_success:
            raise EvalError(f"{response.url} answered {response.status_code}: {_message(response)}")
        try:
            routes = {
                entry["id"]: {key: value for key, value in entry.items() if key not in _OPENAI_KEYS}
                for entry in response.json()["data"]
                # A route that cannot answer, for want of its adapter say, has no identity.
                if {"retrieve", "routes"} & entry.keys() and entry.get("identity", "") is not None
            }
        except (ValueError, KeyError, TypeError) as error:
            raise EvalError(f"{response.url} did not list routes; is it an openbook service?") from error
        if not routes:
            raise EvalError(f"{response.url} lists no openbook route; is it an openbook service?")
        return routes

    def _answer(self, pair: tuple[str, Route]) -> Answer:
        question, route = pair
        for attempt in range(1, ATTEMPTS + 1):
            response = self._post(question, route.name)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or attempt == ATTEMPTS:
                break
            time.sleep(_seconds_to_wait(response, attempt))
        if not response.is_success:
            raise EvalError(
                f"{response.url} answered {response.status_code} for {route.name!r}: {_message(response)}"
            )
        try:
            return _ANSWER.validate_json(response.content)
        except ValidationError as error:
            raise EvalError(f"{response.url} did not send an answer; is it an openbook service?") from error

    def _post(self, question: str, route_name: str) -> httpx.Response:
        body = {"question": question, "route": route_name}
        return self._reached(lambda: self._client.post("/v1/answer", json=body))

    def _get(self, path: str) -> httpx.Response:
        return self._reached(lambda: self._client.get(path))

    def _reached(self, request: Callable[[], httpx.Response]) -> httpx.Response:
        try:
            return request()
        except httpx.TransportError as error:
            raise EvalError(
                f"no answer from {self._client.base_url} ({type(error).__name__}); "
                "is `openbook serve` running there?"
            ) from error


def open_client(url: str, api_key: str | None, timeout_seconds: float = 120.0) -> httpx.Client:
    """A client for a service; `api_key` is sent as a bearer token."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx.Client(base_url=url, headers=headers, timeout=timeout_seconds)


def _choice(name: str, taken: Sequence[Route]) -> Route:
    """What takes one of several routes: it needs whatever one of them needs."""
    adapter = next((route.adapter for route in taken if route.adapter is not None), None)
    return Route(name, any(route.retrieve for route in taken), adapter)


def _seconds_to_wait(response: httpx.Response, attempt: int) -> float:
    """What the service asks for in `Retry-After`, else a little longer each time."""
    asked = response.headers.get("Retry-After", "")
    seconds = float(asked) if asked.isdigit() else 0.5 * 2**attempt
    return min(seconds, LONGEST_WAIT_SECONDS)


def _message(response: httpx.Response) -> str:
    """The `error.message` of the service, or the first line of whatever else answered."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text.partition("\n")[0][:200]
