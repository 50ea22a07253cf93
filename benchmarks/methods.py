"""All ten methods on one corpus: scores, trained numbers, time, memory, file size, latency, in one table.

    python benchmarks/methods.py [--workspace FOLDER] [--data FOLDER] [--documents N] [--methods lora …] [--out FILE]

Each method is trained by `openbook tune` (promoted whatever its dev score), then one `openbook eval` asks all of them,
closed and open book, the test questions. A workspace given by name keeps its results: run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from indexer.files import hash_json

METHODS = (
    "lora",
    "dora",
    "rslora",
    "pissa",
    "ia3",
    "prompt-tuning",
    "p-tuning",
    "prefix-tuning",
    "last-layer",
    "full",
)
SKEIN = Path(__file__).parents[1] / "examples" / "skein"
OPENBOOK = Path(sys.executable).with_name("openbook")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workspace", type=Path)
    parser.add_argument(
        "--data", type=Path, default=SKEIN, help="documents (folder or .jsonl) and questions.jsonl"
    )
    parser.add_argument("--documents", type=int, metavar="N", help="only the first N, and questions on them")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tune", nargs="*", default=[], metavar="KEY=VALUE", help="more [tune] settings")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workspace = arguments.workspace or Path(temporary)
        prepare(workspace, arguments)
        subprocess.run([OPENBOOK, "index", "-w", workspace], check=True)
        name = hash_json(vars_of(arguments) | {"methods": None})[:12]
        measured = {method: train(workspace, method, name) for method in arguments.methods}
        done = subprocess.run(
            [OPENBOOK, "eval", "--no-select", "--json", "-w", workspace],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        result = json.loads(done.stdout)
        for method in arguments.methods:
            measured[method] |= scores(result, method)
    report(measured)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(
            json.dumps({"settings": vars_of(arguments), "methods": measured}, indent=2) + "\n"
        )


def prepare(workspace: Path, arguments: argparse.Namespace) -> None:
    """A route closed and one open book for every method, beside `base` and `rag`."""
    workspace.mkdir(parents=True, exist_ok=True)
    data = arguments.data.resolve()
    if arguments.documents is not None:
        data = part_of(data, arguments.documents, workspace.resolve() / "part")
    documents = next(path for path in (data / "documents", data / "documents.jsonl") if path.exists())
    lines = ["[index]", f"documents = {str(documents)!r}", "[tune]"]
    lines += [pair.replace("=", " = ", 1) for pair in arguments.tune]
    lines += ["[eval]", f"questions = {str(data / 'questions.jsonl')!r}", 'contrasts = [["rag", "base"]]']
    # The standard routes that need an adapter called "mixed" are given the first method's.
    lines += [f"[routes.{name}]\nadapter = {arguments.methods[0]!r}" for name in ("tuned", "hybrid")]
    for method in arguments.methods:
        lines += [f"[routes.tuned-{method}]", f"adapter = {method!r}"]
        lines += [f"[routes.hybrid-{method}]", "retrieve = true", "k = 1", f"adapter = {method!r}"]
    (workspace / "openbook.toml").write_text("\n".join(lines) + "\n")


def part_of(data: Path, count: int, part: Path) -> Path:
    """A folder with the first `count` files of `data`'s documents, by path, and the questions on these alone."""
    source = data / "documents"
    if not source.is_dir():
        raise SystemExit(f"--documents takes a folder of documents, and there is no {source}")
    shutil.rmtree(part, ignore_errors=True)
    files = sorted(file for file in source.rglob("*") if file.is_file())
    known = {file.relative_to(source).as_posix() for file in files[:count]}
    for name in known:
        (part / "documents" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, part / "documents" / name)
    lines = (data / "questions.jsonl").read_text().splitlines()
    kept = [line for line in lines if known.issuperset(json.loads(line)["document_ids"])]
    (part / "questions.jsonl").write_text("\n".join(kept) + "\n")
    return part


def train(workspace: Path, method: str, name: str) -> dict[str, object]:
    """Train one method; seconds are those of its manifest, memory that of the whole process.

    Kept at once, under the `name` of the settings, since a second run would find the adapter trained already.
    """
    kept = workspace / f"measured-{name}" / f"{method}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    settings = {"OPENBOOK_TUNE__METHOD": method, "OPENBOOK_TUNE__ADAPTER": method}
    started = time.monotonic()
    process = subprocess.Popen(
        [OPENBOOK, "tune", "--no-gates", "--json", "-w", workspace],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"openbook tune failed for method {method}")
    trained = json.loads(said.splitlines()[-1])
    manifest, version = trained["manifest"], trained["adapter"].partition("@")[2]
    adapter = workspace / ".openbook" / "data" / "adapters" / method / version
    weights = adapter / "adapter_model.safetensors"
    measured = {
        "dev": manifest["dev_scores"]["score"],
        "learning_rate": manifest["settings"]["learning_rate"],
        "training_seconds": manifest["seconds"],
        "whole_seconds": round(time.monotonic() - started, 1),
        "tokens": manifest["tokens"],
        "peak_gib": usage.ru_maxrss / 2**20,
        "saved_numbers": numbers_in(weights),
        "file_mb": weights.stat().st_size / 1e6,
    }
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(measured))
    return measured


def numbers_in(weights: Path) -> int:
    import math

    from safetensors import safe_open

    with safe_open(weights, "pt") as tensors:
        return sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118


def scores(result: dict[str, object], method: str) -> dict[str, object]:
    routes = result["routes"]
    assert isinstance(routes, dict)
    found: dict[str, object] = {}
    for kind in ("tuned", "hybrid"):
        route = routes[f"{kind}-{method}"]
        found |= {
            f"{kind}_f1": route["metrics"]["f1"]["mean"],
            f"{kind}_p50_ms": route["latency_ms"]["p50"],
        }
    return found


def report(measured: dict[str, dict[str, object]]) -> None:
    print(
        "| method | dev | tuned F1 | hybrid F1 | saved numbers | MB | s | peak GiB | tuned ms | hybrid ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for method, m in measured.items():
        print(
            f"| {method} | {m['dev']:.3f} | {m['tuned_f1']:.3f} | {m['hybrid_f1']:.3f} | {m['saved_numbers']:,} | "
            f"{m['file_mb']:.1f} | {m['training_seconds']:.0f} | {m['peak_gib']:.1f} | {m['tuned_p50_ms']:.0f} | "
            f"{m['hybrid_p50_ms']:.0f} |"
        )


def vars_of(arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "data": arguments.data.name,
        "documents": arguments.documents,
        "methods": arguments.methods,
        "tune": arguments.tune,
    }


if __name__ == "__main__":
    main()
