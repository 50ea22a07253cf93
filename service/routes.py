"""Routes: ways to answer, as data. Nothing in openbook branches on a route's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from indexer.metadata import Value, Where, encode_value

AUTO = "auto"
"""What clients ask for to leave the choice of a route to the router; no route has this name."""


@dataclass(frozen=True, slots=True)
class Route:
    """Retrieval on or off x an adapter or none, plus the prompt options.

    `adapter` is a name in the registry; its promoted version is used unless `name@version` is given.
    `prompt` names one of `tuner.prompt.STYLES`; `examples` is how many solved train questions come first. `where`
    restricts retrieval to documents whose metadata fits.
    """

    name: str
    retrieve: bool
    adapter: str | None = None
    k: int = 3
    prompt: str = "trained"
    examples: int = 0
    max_new_tokens: int = 32
    where: Where = field(default_factory=dict, hash=False)

    def restricted(self, where: Where | None) -> Route:
        """The route for a caller who may see only what fits `where` as well."""
        if not where:
            return self
        both = {key: _common(self.where[key], where[key]) for key in self.where.keys() & where.keys()}
        return replace(self, where={**self.where, **where, **both})


def _common(ours: Value | Sequence[Value], theirs: Value | Sequence[Value]) -> list[Value]:
    """The values that fit both; none of them means that no document does."""
    allowed = {encode_value(value) for value in _several(theirs)}  # in which True is not 1
    return [value for value in _several(ours) if encode_value(value) in allowed]


def _several(value: Value | Sequence[Value]) -> Sequence[Value]:
    return [value] if isinstance(value, str | float | int) else value
