"""What the model is shown: the passages found for a question, and a prompt with as many as it has room for."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.files import hash_json
from indexer.retriever import Hit, Retriever
from service.routes import Route
from tuner.base_model import BaseModel
from tuner.prompt import Context, PromptError, SolvedExample, build_prompt

LONGEST_TOKEN = 16
"""Characters; a question with more than this for every token of room is not even counted."""


class PromptTooLong(PromptError):
    """A question that does not fit the model even without any context."""


def require_short(question: str, base: BaseModel) -> None:
    """Raise PromptTooLong if the question is too long to be worth counting its tokens."""
    if len(question) > LONGEST_TOKEN * base.max_prompt_tokens:
        raise PromptTooLong(
            f"the question has {len(question)} characters, and {base.name} reads "
            f"{base.max_prompt_tokens} tokens; shorten it"
        )


def require_room(question: str, base: BaseModel, max_new_tokens: int) -> None:
    """Raise PromptTooLong if the question alone leaves no room: nothing need be searched for then."""
    room = base.max_prompt_tokens - max_new_tokens
    # A token has a byte at least.
    if len(question.encode()) > room and (count := len(base.tokenizer(question)["input_ids"])) > room:
        raise PromptTooLong(
            f"the question takes {count} tokens, and {base.name} has room for {room} beside an answer of "
            f"{max_new_tokens}; shorten the question or lower max_tokens"
        )


def retrieve(retriever: Retriever, pairs: Sequence[tuple[str, Route]]) -> list[list[Hit]]:
    """Hits for every question and route, none for routes that do not retrieve; one search for each filter."""
    hits: list[list[Hit]] = [[] for _ in pairs]
    by_filter: dict[str, list[int]] = {}
    for n, (_, route) in enumerate(pairs):
        if route.retrieve:
            by_filter.setdefault(hash_json(route.where), []).append(n)
    for places in by_filter.values():
        k, where = max(pairs[n][1].k for n in places), pairs[places[0]][1].where
        found = retriever.search([pairs[n][0] for n in places], k, where)
        for n, ranked in zip(places, found, strict=True):
            hits[n] = ranked[: pairs[n][1].k]
    return hits


def examples_for(question: str, route: Route, examples: Sequence[SolvedExample]) -> list[SolvedExample]:
    """The first `route.examples` solved examples, never the question that is being asked."""
    others = [e for e in examples if e.question != question][: route.examples]
    return others if route.retrieve else [SolvedExample(e.question, e.answer) for e in others]


def fit_prompt(
    base: BaseModel,
    question: str,
    route: Route,
    hits: Sequence[Hit],
    examples: Sequence[SolvedExample],
    max_new_tokens: int,
) -> tuple[list[int], list[Hit]]:
    """The prompt with as many of the best hits as leave the model room for its answer. Raises PromptTooLong."""
    room = base.max_prompt_tokens - max_new_tokens
    for count in range(len(hits), -1, -1):
        contexts = [Context(hit.chunk.title, hit.chunk.text) for hit in hits[:count]]
        prompt = build_prompt(base.tokenizer, question, contexts, route.prompt, examples)
        if len(prompt) <= room:
            return prompt, list(hits[:count])
    raise PromptTooLong(
        f"the prompt takes {len(prompt)} tokens without any context, and {base.name} has room for "
        f"{room} beside an answer of {max_new_tokens}; shorten the question or lower max_tokens"
    )
