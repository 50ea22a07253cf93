"""The `[serve]` and `[routes.NAME]` sections of openbook.toml."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.routes import Route
from tuner.prompt import STYLES


class ServeConfig(BaseModel):
    """Where the service listens and what it accepts."""

    model_config = ConfigDict(extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    api_key_env: str = "OPENBOOK_API_KEY"
    """Environment variable with the key that clients must send; needed unless `host` is this machine only."""
    queue_size: int = Field(default=64, ge=1)
    """Requests that may wait for the model; further ones are turned away with 503."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    max_new_tokens: int = Field(default=512, ge=1)
    """The most that a client may ask for as `max_tokens`."""
    max_body_bytes: int = Field(default=1_000_000, ge=1_000)


class RouteConfig(BaseModel):
    """One way to answer; what is left out of a standard route's table keeps the standard value."""

    model_config = ConfigDict(extra="forbid")

    retrieve: bool = False
    adapter: str | None = None
    k: int = Field(default=3, ge=1, le=50)
    prompt: str | None = None
    """One of `tuner.prompt.STYLES`; left out, it is `trained` with an adapter and `brief` without."""
    examples: int = Field(default=0, ge=0, le=8)
    max_new_tokens: int = Field(default=32, ge=1, le=4096)

    @field_validator("prompt")
    @classmethod
    def _known_style(cls, prompt: str | None) -> str | None:
        if prompt is not None and prompt not in STYLES:
            raise ValueError(f"unknown prompt style {prompt!r}; choose one of {', '.join(STYLES)}")
        return prompt

    def as_route(self, name: str) -> Route:
        """The route this table describes."""
        return Route(
            name=name,
            retrieve=self.retrieve,
            adapter=self.adapter,
            k=self.k,
            prompt=self.prompt or ("trained" if self.adapter else "brief"),
            examples=self.examples,
            max_new_tokens=self.max_new_tokens,
        )


STANDARD_ROUTES: Mapping[str, RouteConfig] = MappingProxyType(
    {
        "base": RouteConfig(),
        "rag": RouteConfig(retrieve=True),
        "tuned": RouteConfig(adapter="mixed"),
        "hybrid": RouteConfig(retrieve=True, adapter="mixed"),
    }
)
"""The 2x2 of retrieval and adapter; `tuned` and `hybrid` share one adapter, so factors can be read off."""


def routes_from_config(tables: Mapping[str, RouteConfig]) -> dict[str, Route]:
    """The standard routes with the user's changes, then the user's own."""
    merged = dict(STANDARD_ROUTES)
    for name, table in tables.items():
        merged[name] = merged.get(name, RouteConfig()).model_copy(update=table.model_dump(exclude_unset=True))
    return {name: table.as_route(name) for name, table in merged.items()}
