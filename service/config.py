"""The `[serve]` and `[routes.NAME]` sections of openbook.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from indexer.metadata import Value
from service.routes import AUTO, Route
from tuner.prompt import STYLES

_ROUTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RouteNameError(ValueError):
    """A name that no route may have."""


class ServeConfig(BaseModel):
    """Where the service listens and what it accepts."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs a key."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on."""
    api_key_env: str = "OPENBOOK_API_KEY"
    """Environment variable with an admin key; it, or `keys_file`, is needed unless `host` is this machine only."""
    keys_file: str | None = None
    """File with hashed keys, one `NAME SCOPE HASH` a line, as `openbook keys new` prints them."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests that one key (or, without keys, everybody together) may send a minute; further ones get 429."""
    cors_origins: list[str] = []
    """Origins of other web pages that may call the service, such as `https://app.example`; none by default."""
    queue_size: int = Field(default=64, ge=1)
    """Requests that may wait for the model; further ones are turned away with 503."""
    queue_tokens: int = Field(default=65_536, ge=1)
    """Prompt tokens that may wait for the model; further requests are turned away with 503."""
    batch_tokens: int = Field(default=16_384, ge=1)
    """Tokens, padding included, that may be under way together; bounds the memory they take."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """Longest that a request may take."""
    max_new_tokens: int = Field(default=512, ge=1)
    """The most that a client may ask for as `max_tokens`."""
    max_body_bytes: int = Field(default=1_000_000, ge=1_000)
    """Largest request body."""
    max_upload_bytes: int = Field(default=16_000_000, ge=1_000)
    """Largest document that may be put over HTTP."""
    tracing: bool = False
    """Whether OpenTelemetry spans are sent, to where `OTEL_EXPORTER_OTLP_ENDPOINT` says; needs the extra `otel`."""


class RouteConfig(BaseModel):
    """One way to answer; a standard route's table holds only changes. Names with dots are quoted: `[routes."v1.2"]`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    retrieve: bool = False
    """Whether passages are looked up and shown."""
    adapter: str | None = None
    """`name` (its promoted version) or `name@version`; left out, the base model answers as it is."""
    k: int = Field(default=3, ge=1, le=50)
    """Passages shown."""
    prompt: str | None = None
    """`trained`, `brief` or `completion`; left out, it is `trained` with an adapter and `completion` without."""
    examples: int = Field(default=0, ge=0, le=8)
    """Solved train questions shown before the real one."""
    max_new_tokens: int = Field(default=32, ge=1, le=4096)
    """Longest answer, in tokens."""
    where: dict[str, Value | list[Value]] = {}
    """Only documents whose metadata has, for every key here, the value or one of the values, are looked up."""

    @model_validator(mode="before")
    @classmethod
    def _quoted_name(cls, table: object) -> object:
        """To TOML, `[routes.v1.2]` is a table `2` in the route `v1`."""
        for key, value in table.items() if isinstance(table, Mapping) else ():
            if isinstance(value, Mapping) and key != "where":
                raise ValueError(
                    f"{key!r} is a table here; if NAME.{key} is meant to be the name of a route, quote it: "
                    f'[routes."NAME.{key}"]'
                )
        return table

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
            prompt=self.prompt or ("trained" if self.adapter else "completion"),
            examples=self.examples,
            max_new_tokens=self.max_new_tokens,
            where=self.where,
        )


STANDARD_ROUTES: Mapping[str, RouteConfig] = MappingProxyType(
    {
        "base": RouteConfig(examples=3),
        "rag": RouteConfig(retrieve=True, examples=3, k=1),
        "tuned": RouteConfig(adapter="mixed"),
        "hybrid": RouteConfig(retrieve=True, adapter="mixed", k=1),
    }
)
"""The 2x2 of retrieval and adapter; `tuned` and `hybrid` share one adapter, so factors can be read off."""


def routes_from_config(tables: Mapping[str, RouteConfig]) -> dict[str, Route]:
    """The standard routes with the user's changes, then the user's own. Raises RouteNameError."""
    for name in tables:
        if name == AUTO:
            raise RouteNameError(
                f"routes.{AUTO}: {AUTO!r} is the trained choice among routes; use another name"
            )
        if not _ROUTE_NAME.fullmatch(name):
            raise RouteNameError(
                f"routes: {name!r} is no name for a route; use 1 to 64 letters, digits, dots, "
                "underscores and hyphens, a letter or digit first"
            )
    merged = dict(STANDARD_ROUTES)
    for name, table in tables.items():
        merged[name] = merged.get(name, RouteConfig()).model_copy(update=table.model_dump(exclude_unset=True))
    return {name: table.as_route(name) for name, table in merged.items()}
