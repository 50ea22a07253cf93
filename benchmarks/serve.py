"""The service with real weights: throughput beside other servers in one run, and what it does under load.

    python benchmarks/serve.py [--questions 32] [--clients 16] [--soak 2000] [--workspace FOLDER] [--base MODEL]
                               [--data ../shared/data/squad-xquad-en] [--dtype auto] [--routes base,rag,tuned,hybrid]
                               [--peer NAME=COMMAND-OR-URL] [--peer-model NAME=ID] [--peer-lora NAME=ID] [--no-peers]

Four routes take turns over real questions (those of dev), greedily: once with 32 new tokens each, as vLLM's
`ignore_eos` has it, so that every server does the same work, and once up to 32, as answers end. Then: ten times the
queue's capacity at once, `/healthz` while long prompts are read, the memory of one adapter more, and memory over
`--soak` mixed requests. Every figure is printed with what it must be. Results are kept in
`benchmarks/results/serve.json`: run again with the same settings, what is there is not repeated (delete the file to
start anew).

`transformers serve` is always measured, unless `--no-peers`. Any other server of the OpenAI protocol joins by `--peer`,
which may be repeated: a command with `{port}` and `{model}` (the folder of the base model), or the URL of a server that
runs. Peers get the very same prompts; all of them go to the base model, as peers have no retrieval and switch no
adapters, unless `--peer-lora` names a LoRA module of the peer for the prompts of routes with an adapter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from asking import ask_ours, ask_peer, measure, resident_megabytes, summary
from load import health, load_checks, one_adapter_more, overload, soak
from serving import (
    NEW_TOKENS,
    RESULTS,
    Results,
    Task,
    add_workspace_arguments,
    open_workspace,
    openbook_command,
    prepare,
    server,
)

TRANSFORMERS = "transformers serve"
WHOLE = f"{NEW_TOKENS} tokens each"
WARM_UP = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workspace_arguments(parser)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--routes", default="base,rag,tuned,hybrid")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--soak", type=int, default=2000)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND-OR-URL")
    parser.add_argument("--peer-model", action="append", default=[], metavar="NAME=ID")
    parser.add_argument("--peer-lora", action="append", default=[], metavar="NAME=ID")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    workspace = open_workspace(arguments)
    tasks, model, count_tokens = prepare(workspace, arguments.questions, arguments.routes.split(","))
    settings = {
        name: getattr(arguments, name) for name in ("base", "dtype", "routes", "questions", "clients", "soak")
    }
    results = Results(RESULTS / "serve.json", {**settings, "workspace": str(workspace)})
    command = openbook_command("serve", "-w", str(workspace), "--port", "{port}")
    with server(command, {"OPENBOOK_MODEL__DTYPE": arguments.dtype}) as (url, pid):
        measure_ours(results, url, pid, count_tokens, tasks, arguments)
    if arguments.workspace is None:  # with its memory as after a start, without holes to fill
        results.part(
            "one adapter more", lambda: one_adapter_more(command, arguments.dtype, count_tokens, tasks)
        )
    if not arguments.no_peers:
        measure_peers(results, model, count_tokens, tasks, arguments)
    sys.exit(report(results.parts, tasks, arguments.clients))


def measure_ours(
    results: Results,
    url: str,
    pid: int,
    count_tokens: Callable[[str], int],
    tasks: Sequence[Task],
    arguments: argparse.Namespace,
) -> None:
    def timed(clients: int, whole: bool) -> dict[str, Any]:
        replies, seconds = measure(url, ask_ours(count_tokens, whole), tasks, clients)
        return {
            **summary(replies, seconds),
            "resident MB": resident_megabytes(pid),
            "texts": [r.text for r in replies],
        }

    ours = ask_ours(count_tokens)
    measure(url, ours, tasks[:WARM_UP], 4)  # loads adapters, fills the prefix cache
    for whole in (True, False):
        for clients in (1, arguments.clients):
            name = part_name("ours", clients, whole)
            results.part(name, lambda clients=clients, whole=whole: timed(clients, whole))
    results.part("overload", lambda: asyncio.run(overload(url, tasks)))
    results.part("health during a long prefill", lambda: asyncio.run(health(url)))
    if arguments.soak:
        results.part("memory", lambda: soak(url, pid, ours, tasks, arguments))


def measure_peers(
    results: Results,
    model: Path,
    count_tokens: Callable[[str], int],
    tasks: Sequence[Task],
    arguments: argparse.Namespace,
) -> None:
    transformers = Path(sys.executable).with_name("transformers")
    command = f"{transformers} serve {model} --port {{port}} --device cpu"
    peers = {TRANSFORMERS: command, f"{TRANSFORMERS}, batching": f"{command} --continuous-batching"}
    peers |= _named(arguments.peer)
    models, loras = _named(arguments.peer_model), _named(arguments.peer_lora)
    for name, command in peers.items():

        def timed(whole: bool, name: str = name, command: str = command) -> dict[str, Any]:
            try:
                with server(command.replace("{model}", str(model))) as (url, pid):
                    known = (
                        str(model) if name.startswith(TRANSFORMERS) else models.get(name) or first_model(url)
                    )
                    peer = ask_peer(known, loras.get(name), count_tokens, endless(name) if whole else {})
                    measure(url, peer, tasks[:4], 1)
                    replies, seconds = measure(url, peer, tasks, arguments.clients)
                    return {**summary(replies, seconds), "resident MB": resident_megabytes(pid)}
            except (RuntimeError, httpx.HTTPError) as error:
                return {"failed": f"{type(error).__name__}: {error}"[:300]}

        for whole in (True, False):
            results.part(part_name(name, arguments.clients, whole), lambda whole=whole: timed(whole))


def endless(server_name: str) -> dict[str, object]:
    """What has a peer go on to the last token: transformers has no word for it, but takes a whole configuration."""
    if server_name.startswith(TRANSFORMERS):
        configuration = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": -1}
        return {"generation_config": json.dumps(configuration)}
    return {"ignore_eos": True}


def part_name(server_name: str, clients: int, whole: bool) -> str:
    many = "one at a time" if clients == 1 else f"{clients} clients"
    return f"{server_name}, {many}, {WHOLE if whole else 'as answers end'}"


def first_model(url: str) -> str:
    return str(httpx.get(f"{url}/v1/models", timeout=30).json()["data"][0]["id"])


def report(parts: dict[str, Any], tasks: Sequence[Task], clients: int) -> int:
    """Print every figure with what it must be; the exit code."""
    print("| server | tokens/s | p50 s | p95 s | first token p50 s | p95 s | resident MB | ours is |")
    print("|---|---|---|---|---|---|---|---|")
    for name, part in parts.items():
        if "failed" in part:
            print(f"| {name} | {part['failed']} | | | | | | |")
        elif "tokens a second" in part:
            ours = parts[part_name("ours", clients, name.endswith(WHOLE))]
            ratio = ours["tokens a second"] / max(part["tokens a second"], 0.1)
            figures = [part[k] for k in ("tokens a second", "seconds p50", "seconds p95")]
            figures += [part[k] for k in ("first token p50", "first token p95", "resident MB")]
            print(f"| {name} | {' | '.join(map(str, figures))} | {ratio:.2f}x |")
    together, alone = (parts[part_name("ours", n, False)] for n in (clients, 1))
    equal = sum(a == b for a, b in zip(alone["texts"], together["texts"], strict=True))
    print(
        f"\n{equal} of {len(tasks)} answers under load equal those alone (benchmarks/equality.py looks closer)\n"
    )
    together, alone = (parts[part_name("ours", n, True)] for n in (clients, 1))
    checks = [
        _ratio("at least 4 times one at a time", together, alone, 4),
        *(
            _ratio(f"at least {least} times {name}", together, part, least)
            for name, part in parts.items()
            for least in [2 if name.startswith(TRANSFORMERS) else 3]
            if name.endswith(WHOLE) and (name.startswith(TRANSFORMERS) or "vllm" in name.lower())
        ),
        *load_checks(parts),
    ]
    failed = 0
    for wanted, found, passed in checks:
        failed += passed is False
        print(f"{'not run' if passed is None else 'pass' if passed else 'FAIL'}: {wanted}: {found}")
    return 1 if failed else 0


def _ratio(
    wanted: str, ours: dict[str, Any], other: dict[str, Any], least: float
) -> tuple[str, str, bool | None]:
    if "failed" in other:
        return wanted, "-", None
    ratio = ours["tokens a second"] / max(other["tokens a second"], 0.1)
    return wanted, f"{ratio:.2f}", ratio >= least


def _named(pairs: Sequence[str]) -> dict[str, str]:
    named = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not value:
            sys.exit(f"{pair!r} is not NAME=VALUE")
        named[name] = value
    return named


if __name__ == "__main__":
    main()
