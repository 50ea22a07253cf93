"""`openbook adapters`: what is in the registry, in and out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from safetensors import safe_open

from indexer.config import Workspace
from indexer.database import IndexMissing
from indexer.snapshot import Snapshot
from tuner.exchange import export_adapter, import_adapter, merge_adapter
from tuner.registry import AdapterError, AdapterVersion, Registry
from tuner.trained_on import staleness

_COMPARED = (
    "base_model",
    "corpus_hash",
    "questions_hash",
    "prompt_hash",
    "recipe",
    "method",
    "seed",
    "tokens",
)


def list_adapters(workspace: Workspace, as_json: bool) -> None:
    """Every adapter version with its dev scores, and whether its documents have changed."""
    registry = Registry(workspace.adapters)
    hashes = _content_hashes(workspace)
    found = []
    for key in (f"{name}@{v}" for name in registry.names() for v in registry.versions(name)):
        try:
            found.append(registry.resolve(key))
        except AdapterError as error:
            click.echo(str(error), err=True)  # one damaged version does not hide the others
    if as_json:
        click.echo(json.dumps([_summary(registry, adapter, hashes) for adapter in found]))
        return
    if not found:
        click.echo("no adapters yet; train one with `openbook tune`")
    for adapter in found:
        mark = " (promoted)" if registry.promoted(adapter.name) == adapter.version else ""
        scores = ", ".join(f"{k} {v:.3f}" for k, v in adapter.manifest.dev_scores.items()) or "not scored"
        click.echo(f"{adapter.key}{mark}: {adapter.manifest.recipe} {adapter.manifest.method}; dev {scores}")
        for note in _notes(registry, adapter, hashes):
            click.echo(f"  {note}")


def show_adapter(workspace: Workspace, ref: str) -> None:
    """The manifest of one adapter, what the gates found, and whether its documents have changed."""
    registry = Registry(workspace.adapters)
    adapter = registry.resolve(ref)
    gates = registry.gates(adapter)
    shown = {
        **adapter.manifest.model_dump(),
        "promoted": registry.promoted(adapter.name) == adapter.version,
        "gates": {"failures": gates.failures, **gates.figures} if gates else None,
        "stale": _stale(adapter, _content_hashes(workspace)) or None,
    }
    click.echo(json.dumps(shown, indent=2))


def promote_adapter(workspace: Workspace, ref: str) -> None:
    """Make a version the one that routes use, whatever the gates found."""
    registry = Registry(workspace.adapters)
    adapter = registry.resolve(ref)
    registry.promote(adapter.name, adapter.version)
    click.echo(f"routes with adapter {adapter.name!r} now use {adapter.key}")
    if (gates := registry.gates(adapter)) is not None and not gates.passed:
        click.echo(f"although on dev {'; '.join(gates.failures)}", err=True)


def delete_adapter(workspace: Workspace, ref: str) -> None:
    """Remove one version for good."""
    click.echo(f"{Registry(workspace.adapters).delete(ref)} is deleted")


def diff_adapters(workspace: Workspace, first: str, second: str) -> None:
    """What differs between two versions: inputs, settings, scores, weights."""
    registry = Registry(workspace.adapters)
    a, b = registry.resolve(first), registry.resolve(second)
    click.echo(f"{a.key} -> {b.key}")
    lines = [*_differences(_comparable(a), _comparable(b)), *_weight_differences(a, b)]
    for line in lines or ["no difference"]:
        click.echo(f"  {line}")


def export(workspace: Workspace, ref: str, folder: Path) -> None:
    """Write an adapter as a plain PEFT folder."""
    adapter = Registry(workspace.adapters).resolve(ref)
    export_adapter(adapter, folder)
    click.echo(
        f"{adapter.key} is in {folder}; load it with PeftModel.from_pretrained(model, {str(folder)!r})"
    )


def merge(workspace: Workspace, ref: str, base_model: str, folder: Path) -> None:
    """Write base model and adapter as one model."""
    adapter = Registry(workspace.adapters).resolve(ref)
    merge_adapter(adapter, base_model, folder)
    click.echo(f"{base_model} with {adapter.key} worked in is in {folder}")


def import_(workspace: Workspace, base_model: str, folder: Path, name: str) -> None:
    """Take a PEFT LoRA adapter that was trained elsewhere; the first of its name is promoted."""
    registry = Registry(workspace.adapters)
    adapter = import_adapter(registry, base_model, folder, name)
    if registry.promoted(name) is None:
        registry.promote(name, adapter.version)
        click.echo(
            f"{adapter.key} is imported and promoted; name it in a route: [routes.{name}] adapter = {name!r}"
        )
    else:
        click.echo(f"{adapter.key} is imported; use it with `openbook adapters promote {adapter.key}`")


def _summary(registry: Registry, adapter: AdapterVersion, hashes: Mapping[str, str] | None) -> dict[str, Any]:
    gates = registry.gates(adapter)
    return {
        "adapter": adapter.key,
        "promoted": registry.promoted(adapter.name) == adapter.version,
        "recipe": adapter.manifest.recipe,
        "method": adapter.manifest.method,
        "dev_scores": adapter.manifest.dev_scores,
        "gate_failures": list(gates.failures) if gates else None,
        "stale": _stale(adapter, hashes) or None,
    }


def _notes(registry: Registry, adapter: AdapterVersion, hashes: Mapping[str, str] | None) -> Iterator[str]:
    if (gates := registry.gates(adapter)) is not None:
        yield from gates.failures
    if stale := _stale(adapter, hashes):
        yield stale


def _stale(adapter: AdapterVersion, hashes: Mapping[str, str] | None) -> str:
    found = staleness(adapter, hashes) if hashes is not None else None
    return found.describe(adapter.manifest.corpus_generation) if found else ""


def _content_hashes(workspace: Workspace) -> dict[str, str] | None:
    """The documents as indexed now; None without an index."""
    try:
        with closing(Snapshot(workspace.database)) as snapshot:
            return snapshot.content_hashes()
    except IndexMissing:
        return None


def _comparable(adapter: AdapterVersion) -> dict[str, Any]:
    manifest = adapter.manifest
    return {
        **{key: getattr(manifest, key) for key in _COMPARED},
        **{f"settings.{key}": value for key, value in manifest.settings.items()},
        **{f"rows.{key}": value for key, value in manifest.rows.items()},
        **{f"dev.{key}": round(value, 4) for key, value in manifest.dev_scores.items()},
    }


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            yield f"{key}: {a.get(key, 'none')} -> {b.get(key, 'none')}"


def _weight_differences(a: AdapterVersion, b: AdapterVersion) -> Iterator[str]:
    if a.manifest.weights_hash == b.manifest.weights_hash:
        return
    files = [adapter.path / "adapter_model.safetensors" for adapter in (a, b)]
    with safe_open(files[0], "pt") as first, safe_open(files[1], "pt") as second:
        mine, theirs = set(first.keys()), set(second.keys())
        if only := mine ^ theirs:
            yield f"weights: {len(only)} tensors are in one of them only"
        distance = size = 0.0
        for name in mine & theirs:
            x, y = first.get_tensor(name).float(), second.get_tensor(name).float()
            if x.shape != y.shape:
                yield f"weights: {name} is {tuple(x.shape)} -> {tuple(y.shape)}"
                continue
            distance += float((x - y).square().sum())
            size += float(x.square().sum())
        if size:
            yield f"weights: relative distance {(distance / size) ** 0.5:.3f} over the common tensors"
