"""Answers from a running openbook service, for scoring it as its users meet it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
from pydantic import TypeAdapter, ValidationError

from eval.answers import EvalError
from eval.provenance import Setup
from service.answering import Answer
from service.routes import Route

PARALLEL = 4
ATTEMPTS = 5
LONGEST_WAIT_SECONDS = 30.0

_ANSWER = TypeAdapter(Answer)


class HttpAnswerer:
    """Posts questions to `/v1/answer`; routes go by name, as what they do is the service's configuration."""

    def __init__(self, client: httpx.Client) -> None:
        """`client` carries the base URL, the key and the timeout: see `open_client`."""
        self._client = client

    def answer_many(self, pairs: Sequence[tuple[str, Route]]) -> list[Answer]:
        """Answer in order, a few at a time, waiting when the service says that it is busy."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self._answer, pairs))

    def setup(self, question: str, routes: Sequence[Route]) -> Setup:
        """What is behind the service, learnt by asking every route one question.

        The service names its models and its index generation but gives no hashes: the names stand for them.
        """
        probes = self.answer_many([(question, route) for route in routes])
        answers = {route.name: answer for route, answer in zip(routes, probes, strict=True)}
        url = str(self._client.base_url)
        base_model = next(iter(answers.values())).base_model
        generation = next((a.generation for a in answers.values() if a.generation is not None), None)
        adapters = {name: answer.adapter for name, answer in answers.items() if answer.adapter is not None}
        return Setup(
            source=url,
            base_model=base_model,
            base_model_hash=f"{base_model} at {url}",
            adapters=adapters,
            adapter_hashes={name: f"{adapter} at {url}" for name, adapter in adapters.items()},
            corpus_hash=None if generation is None else f"generation {generation} at {url}",
            index_generation=generation,
            making="",
            examples_hash=url,
        )

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
        try:
            return self._client.post("/v1/answer", json={"question": question, "route": route_name})
        except httpx.TransportError as error:
            raise EvalError(
                f"no answer from {self._client.base_url} ({type(error).__name__}); "
                "is `openbook serve` running there?"
            ) from error


def open_client(url: str, api_key: str | None, timeout_seconds: float = 120.0) -> httpx.Client:
    """A client for a service; `api_key` is sent as a bearer token."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx.Client(base_url=url, headers=headers, timeout=timeout_seconds)


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
