"""The `[model]` and `[index]` sections of openbook.toml, and the workspace folder they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class RemoteConfig(BaseModel):
    """Answers from an OpenAI-compatible server, such as vLLM, instead of from weights loaded here."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str
    """Up to and with `/v1`."""
    model: str
    """The base model, as the server calls it."""
    adapters: dict[str, str] = {}
    """By adapter (`mixed`, or `mixed@3` for that version alone), the model of the server that has it."""
    api_key_env: str = "OPENBOOK_REMOTE_KEY"
    """Environment variable that holds the key, if the server wants one."""
    connections: int = Field(default=32, ge=1, le=1024)
    """Requests to the server under way at once."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest wait for the first, and for the next, piece of an answer."""
    retries: int = Field(default=3, ge=0, le=10)
    """Times that a request is sent again if the server is busy or out of reach; never after the first token."""
    context_tokens: int | None = Field(default=None, ge=64)
    """What the server reads at most, prompt and answer together, if that is less than the model itself can."""

    @field_validator("url")
    @classmethod
    def _usable_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not a URL like http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ValueError("holds a password; put the key into the environment variable `api_key_env`")
        return url.rstrip("/")


class ModelConfig(BaseModel):
    """Which models to use: `bundled:NAME`, a Hugging Face id, or a local folder (safetensors only)."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    base: str = "bundled:smollm2-135m-instruct"
    """The causal language model that answers."""
    encoder: str = "bundled:all-minilm-l6-v2"
    """The sentence-transformers model that embeds chunks and questions."""
    dtype: Literal["auto", "float32", "bfloat16", "8bit", "4bit"] = "auto"
    """Number format of the base model; `auto` is bfloat16 where the machine multiplies it natively. `8bit` and `4bit`
    need a CUDA GPU."""
    remote: RemoteConfig | None = None
    """`[model.remote]`, a table: `url` and `model` of an OpenAI-compatible server that answers. `base` then gives the
    tokenizer, and its weights are loaded for training only."""


class IndexConfig(BaseModel):
    """What is indexed and how it is cut and searched."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    documents: Path = Path("documents")
    """A folder, or a `.jsonl` file with `id`, `title` and `text`; relative to openbook.toml."""
    max_file_mb: int = Field(default=64, ge=1, le=256)
    """Larger files are skipped and reported."""
    chunk_tokens: int = Field(default=160, ge=32, le=2048)
    """Most encoder tokens in a chunk."""
    overlap_tokens: int = Field(default=0, ge=0, le=1024)
    """How many of them may be the last sentences of the chunk before, below the same heading; at most half."""
    rerank: str | None = None
    """A cross-encoder (a Hugging Face id, or a local folder; safetensors only) that reads the question together with
    each of the 32 best chunks and orders these anew; none if left out."""
    max_per_document: int = Field(default=0, ge=0)
    """Most chunks of one document among the results; 0 for no limit."""
    vectors: Literal["auto", "flat", "ivf", "ivf-sq8"] = "auto"
    """How vectors are searched: all of them (`flat`), or the likeliest clusters (`ivf`; `ivf-sq8` takes a quarter of
    the memory). `auto` is `flat` up to 50,000 vectors, else `ivf`. Applied when a document next changes."""

    @field_validator("overlap_tokens")
    @classmethod
    def _leaves_room(cls, tokens: int, info: ValidationInfo) -> int:
        chunk_tokens = info.data.get("chunk_tokens", tokens * 2)  # absent if it is wrong itself
        if 2 * tokens > chunk_tokens:
            raise ValueError(f"more than half of chunk_tokens = {chunk_tokens}; lower it")
        return tokens


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder with `openbook.toml` and `.openbook/`; every other path of openbook is derived here."""

    root: Path

    @property
    def config_file(self) -> Path:
        """The settings."""
        return self.root / "openbook.toml"

    @property
    def data(self) -> Path:
        """What cannot be rebuilt: adapters, evaluations, documents put through the API."""
        return self.root / ".openbook" / "data"

    @property
    def cache(self) -> Path:
        """What can be rebuilt from `data` and the documents."""
        return self.root / ".openbook" / "cache"

    @property
    def database(self) -> Path:
        """The index."""
        return self.data / "index.sqlite"

    @property
    def adapters(self) -> Path:
        """The registry of adapters."""
        return self.data / "adapters"

    @property
    def evaluations(self) -> Path:
        """One folder for each evaluation."""
        return self.data / "evaluations"

    def resolve(self, path: Path) -> Path:
        """`path` as given if absolute, otherwise relative to the workspace (not to the current folder)."""
        return path if path.is_absolute() else self.root / path
