"""Routes: ways to answer, as data. Nothing in openbook branches on a route's name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """Retrieval on or off x an adapter or none, plus the prompt options.

    `adapter` is a name in the registry; its promoted version is used unless `name@version` is given.
    `prompt` names one of `tuner.prompt.STYLES`; `examples` is how many solved train questions come first.
    """

    name: str
    retrieve: bool
    adapter: str | None = None
    k: int = 3
    prompt: str = "trained"
    examples: int = 0
    max_new_tokens: int = 32
