"""Adapters to and from the world: PEFT folders out and in, and merged models."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from indexer.files import fsync_files
from tuner.base_model import BUNDLED_PREFIX, load_base, resolve_model, weights_hash
from tuner.ia3 import Ia3
from tuner.loading import attach_saved, read_adapter
from tuner.prompt import prompt_hash
from tuner.registry import (
    AdapterError,
    AdapterVersion,
    Registry,
    adapter_hash,
    check_adapter,
    require_sound_tensors,
)
from tuner.swapping import SwappedTensors

MAX_RANK = 256
_LAYER = re.compile(r"base_model\.model\.(?P<path>.+)\.(?P<part>lora_A|lora_B)\.weight")
_MAGNITUDE = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_magnitude_vector(\.weight)?")
"""Of DoRA; PEFT has written both names."""
_PLAIN_STARTS = (True, False, "gaussian")
"""Values of `init_lora_weights` that leave the base model's weights alone."""
_HARMLESS = frozenset(
    (
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "peft_type",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    )
)
"""Settings of PEFT that say which layers are changed by how much; any other must be as PEFT leaves it."""


def export_adapter(adapter: AdapterVersion, folder: Path) -> None:
    """Write a folder that `PeftModel.from_pretrained` loads. Raises AdapterError."""
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    if "peft_type" not in config:
        raise AdapterError(
            f"PEFT has no format for method {adapter.manifest.method!r} of {adapter.key}; write a whole model with "
            f"`openbook adapters merge {adapter.key} {folder}`"
        )
    with _new_folder(folder) as aside:
        for file in adapter.path.iterdir():
            if file.name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
                shutil.copyfile(file, aside / file.name)


def merge_adapter(adapter: AdapterVersion, base_model: str, folder: Path) -> None:
    """Write the base model with the adapter worked into its weights, in the number format it is stored in.

    Raises AdapterError for another base model, damaged weights, and virtual tokens, which are no weights.
    """
    stored = AutoConfig.from_pretrained(str(resolve_model(base_model)), local_files_only=True).dtype
    base = load_base(base_model, "float32")
    check_adapter(adapter, base.name, base.hash)
    held = read_adapter(adapter)
    model = base.model
    if held.config.get("peft_type") == "LORA":
        model = PeftModel.from_pretrained(model, adapter.path).merge_and_unload()
    else:
        attached = attach_saved(model, held.tensors, held.config)
        if isinstance(attached, Ia3):
            attached.fold_in(model)
        elif not isinstance(attached, SwappedTensors):
            raise AdapterError(
                f"method {adapter.manifest.method!r} of {adapter.key} puts virtual tokens before the prompt; they "
                "cannot be merged into weights"
            )
    model.to(stored or torch.float32)
    with _new_folder(folder) as aside:
        model.save_pretrained(aside, safe_serialization=True)
        base.tokenizer.save_pretrained(aside)


def import_adapter(registry: Registry, base_model: str, folder: Path, name: str) -> AdapterVersion:
    """Take a LoRA adapter that was trained elsewhere for this base model into the registry, not promoted.

    Refused with AdapterError: pickled weights, another base model, layers that it has not, numbers that are none,
    a rank above 256, and LoRA variants that change more than the linear layers.
    """
    adapter_hash(folder)
    config = _read_config(folder)
    _check_config(config, base_model, folder)
    require_sound_tensors(folder / "adapter_model.safetensors")
    _check_layers(
        folder / "adapter_model.safetensors", base_model, _ranks(config), bool(config.get("use_dora"))
    )

    def write(aside: Path) -> None:
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(folder / file, aside / file)

    method = "dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora"
    manifest = {
        "base_model": base_model,
        "base_model_hash": weights_hash(resolve_model(base_model)),
        "corpus_hash": "",
        "corpus_generation": 0,
        "questions_hash": "",
        "prompt_hash": prompt_hash(),
        "recipe": "imported",
        "method": method,
        "settings": {"rank": config["r"]},
        "seed": 0,
        "rows": {},
        "tokens": 0,
        "steps": 0,
        "seconds": 0.0,
        "dev_scores": {},
        "versions": {"openbook": version("openbook")},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return registry.add(name, write, manifest)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        return {**config, "r": int(config["r"])}
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            f"{folder / 'adapter_config.json'} is not a LoRA configuration of PEFT's"
        ) from error


def _check_config(config: Mapping[str, Any], base_model: str, folder: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"{folder} has an adapter of type {config.get('peft_type')!r}; only LORA is imported"
        )
    theirs = str(config.get("base_model_name_or_path") or "")
    if _model_name(theirs) != _model_name(base_model) and Path(theirs) != resolve_model(base_model):
        raise AdapterError(
            f"{folder} was trained for base model {theirs!r}, not for {base_model!r}; if they are one model under two "
            "names, change base_model_name_or_path in its adapter_config.json"
        )
    scales = [config.get("lora_alpha"), *(config.get("alpha_pattern") or {}).values()]
    if odd := [scale for scale in scales if not _is_scale(scale)]:
        raise AdapterError(f"{folder} has lora_alpha {odd[0]!r}, which is no number above 0")
    ranks = _ranks(config)
    if wrong := next((rank for rank in ranks if not isinstance(rank, int) or rank < 1), None):
        raise AdapterError(f"{folder} has rank {wrong!r}; ranks are whole numbers from 1 to {MAX_RANK}")
    if max(ranks) > MAX_RANK:
        raise AdapterError(f"{folder} has rank {max(ranks)}; at most {MAX_RANK} is loaded")
    if (
        config.get("modules_to_save")
        or config.get("bias", "none") != "none"
        or config.get("trainable_token_indices")
    ):
        raise AdapterError(
            f"{folder} also replaces whole modules, biases or token embeddings, which routes cannot share; train it "
            "again without modules_to_save, bias and trainable_token_indices"
        )
    if (start := config.get("init_lora_weights", True)) not in _PLAIN_STARTS:
        raise AdapterError(
            f"{folder} changes the base model itself (init_lora_weights = {start!r}); save it as plain LoRA with "
            "PEFT's path_initial_model_for_weight_conversion"
        )
    usual = vars(LoraConfig())
    for key, value in config.items():
        if key not in _HARMLESS and value and value != usual.get(key):
            raise AdapterError(
                f"{folder} sets {key} = {value!r}, which may change the base model that all routes share; only plain "
                "LoRA, DoRA and rsLoRA are imported"
            )


def _ranks(config: Mapping[str, Any]) -> list[Any]:
    return [config.get("r", 0), *(config.get("rank_pattern") or {}).values()]


def _is_scale(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _check_layers(file: Path, base_model: str, ranks: Collection[int], dora: bool) -> None:
    """Every tensor must fit a linear layer of the base model, of which only the shapes are made, and come in pairs.

    With `dora` every pair has a magnitude, without it none: PEFT would make one up, or leave it out.
    """
    config = AutoConfig.from_pretrained(str(resolve_model(base_model)), local_files_only=True)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    layers = {n: m.weight.shape for n, m in skeleton.named_modules() if isinstance(m, torch.nn.Linear)}
    with safe_open(file, framework="pt") as tensors:
        shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
    for key, shape in shapes.items():
        if not _fits(key, shape, layers, ranks):
            raise AdapterError(
                f"tensor {key} {tuple(shape)} in {file} fits no linear layer of base model {base_model!r} at rank "
                f"{' or '.join(map(str, sorted(set(ranks))))}"
            )
        half, other = ("lora_A", "lora_B") if "lora_A" in key else ("lora_B", "lora_A")
        if key.replace(half, other) not in shapes:
            raise AdapterError(f"tensor {key} in {file} lacks its other half, {key.replace(half, other)}")
    pairs = {found["path"] for key in shapes if (found := _LAYER.fullmatch(key))}
    magnitudes = {found["path"] for key in shapes if (found := _MAGNITUDE.fullmatch(key))}
    if magnitudes != (pairs if dora else set()):
        raise AdapterError(
            f"{file} has lora_magnitude_vector for {len(magnitudes)} of its {len(pairs)} layers, with use_dora = "
            f"{dora}; DoRA has one for each, LoRA none"
        )


def _fits(key: str, shape: list[int], layers: Mapping[str, torch.Size], ranks: Collection[int]) -> bool:
    if found := _MAGNITUDE.fullmatch(key):
        return found["path"] in layers and shape == [layers[found["path"]][0]]
    found = _LAYER.fullmatch(key)
    if found is None or found["path"] not in layers or len(shape) != 2:
        return False
    out_features, in_features = layers[found["path"]]
    rank, size = shape if found["part"] == "lora_A" else (shape[1], shape[0])
    return rank in ranks and size == (in_features if found["part"] == "lora_A" else out_features)


def _model_name(ref: str) -> str:
    return ref.removeprefix(BUNDLED_PREFIX).rstrip("/").rsplit("/", 1)[-1].casefold()


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name when it is complete. Raises AdapterError if the name is taken."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AdapterError(f"{folder} exists already and is not an empty folder; name a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield aside
        aside.chmod(0o755)
        fsync_files(aside)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
