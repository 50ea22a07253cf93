"""`openbook.toml`: all sections in one model, how it is read, and its reference."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from eval.config import EvalConfig
from indexer.config import IndexConfig, ModelConfig, Workspace
from service.config import RouteConfig, ServeConfig
from tuner.config import TuneConfig

TEMPLATE = """\
# openbook workspace. Every key may be left out; what is commented out is the default.
# Environment variables override it: OPENBOOK_INDEX__CHUNK_TOKENS=128

[model]
# base = "bundled:smollm2-135m-instruct"     # or a Hugging Face id, or a folder with safetensors
# encoder = "bundled:all-minilm-l6-v2"
# dtype = "auto"                             # bfloat16 where the machine is fast at it

[index]
# documents = "documents"                    # a folder, or a .jsonl file

[eval]
# questions = "questions.jsonl"              # train and dev for tuning, test for the verdict
# primary_metric = "f1"
# margin = 0.03                              # differences smaller than this do not matter

# The four standard routes exist without being named. Change one, or add your own:
# [routes.rag]
# k = 5
#
# [routes.wide]
# retrieve = true
# k = 10
"""


class ConfigError(ValueError):
    """A workspace or configuration that cannot be used; the message names the key and the remedy."""


class Settings(BaseSettings):
    """`openbook.toml`, one section per package; `OPENBOOK_<SECTION>__<KEY>` in the environment overrides it."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix="OPENBOOK_", env_nested_delimiter="__")

    model: ModelConfig = Field(default_factory=ModelConfig)
    index: IndexConfig = Field(default_factory=IndexConfig)
    tune: TuneConfig = Field(default_factory=TuneConfig)
    serve: ServeConfig = Field(default_factory=ServeConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    routes: dict[str, RouteConfig] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file; neither .env files nor secret folders are read."""
        return env_settings, init_settings


def load_settings(workspace: Workspace) -> Settings:
    """Read and check the workspace's configuration. Raises ConfigError."""
    if not workspace.config_file.is_file():
        raise ConfigError(
            f"{workspace.root} has no openbook.toml; run `openbook init {workspace.root}` first"
        )
    try:
        values = TomlConfigSettingsSource(Settings, workspace.config_file)()
        return Settings(**values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{workspace.config_file} is not valid TOML: {error}") from error
    except SettingsError as error:
        raise ConfigError(f"an environment variable OPENBOOK_... cannot be used: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        given = "" if first["type"] == "extra_forbidden" else f" (given: {first['input']!r})"
        message = (
            "unknown key; see docs/configuration.md" if first["type"] == "extra_forbidden" else first["msg"]
        )
        raise ConfigError(f"{workspace.config_file}: {key}: {message}{given}") from error


def reference() -> str:
    """Every key with its default and meaning, as Markdown (docs/configuration.md)."""
    return "\n".join(_reference_lines()) + "\n"


def _reference_lines() -> Iterator[str]:
    yield "# Configuration"
    yield ""
    yield "`openbook init DIR` writes a commented `openbook.toml`; every key may be left out. The environment"
    yield "overrides the file: `OPENBOOK_INDEX__CHUNK_TOKENS=128` sets `index.chunk_tokens`. Unknown keys are errors."
    yield "`index.documents` and `eval.questions` are relative to `openbook.toml`, model folders to where you are."
    yield "This page is made from the code by `make reference`."
    for name, field in Settings.model_fields.items():
        section: type[BaseModel] = RouteConfig if name == "routes" else field.annotation  # type: ignore[assignment]
        yield from _section_lines("routes.NAME" if name == "routes" else name, section)


def _section_lines(title: str, section: type[BaseModel]) -> Iterator[str]:
    yield ""
    yield f"## [{title}]"
    yield ""
    yield (section.__doc__ or "").strip()
    yield ""
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    tables = {}
    for key, value in section.model_fields.items():
        if table := _table(value.annotation):
            tables[key] = table
            if table is value.annotation:
                continue
        yield f"| `{key}` | {_shown_default(value)} | {' '.join((value.description or '').split())} |"
    for key, table in tables.items():
        yield from _section_lines(f"{title}.{key}", table)


def _table(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, if it holds one (or may be left out)."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _shown_default(value: FieldInfo) -> str:
    if value.is_required():
        return "(required)"
    default = value.get_default(call_default_factory=True, validated_data={})
    if default is None:
        return ""
    return f"`{TypeAdapter[Any](value.annotation or Any).dump_json(default).decode()}`"
