"""An evaluation's answers beside the naive way, in one run: four routes x 263 test questions of squad-xquad-en.

    python -m venv peers   # once, by hand: these packages are not openbook's
    peers/bin/pip install torch==2.13.0 VERSIONS
    python benchmarks/eval.py --peers peers/bin/python [--workspace FOLDER] [--questions 263] [--repeats 1]
                              [--dtype float32] [--data ../shared/data/squad-xquad-en] [--base MODEL] [--out FILE]

VERSIONS: langchain-community==0.3.30 langchain-huggingface==0.3.1 lm-eval==0.4.13 and openbook's own numpy,
transformers, peft, sentence-transformers and faiss-cpu. Without `--peers` this interpreter is taken: if it lacks
LangChain, the search is done by hand with sentence-transformers and FAISS; if it lacks lm-eval, that is skipped.

Ours is what `openbook eval` does (`eval.run.answers_of`: keys, retrieval, prompts, batches, the log of answers), with
the routes as configured, not with prompts chosen on dev. The naive way asks one question at a time, route by route:
one search among the same passages with the same encoder, then transformers' `generate`, up to as many tokens, in the
same number format, with PEFT's adapter for routes that have one. It gets our prompts, so that answers can be compared,
and is measured both as scripts are usually written (what follows a stop string is cut off afterwards) and told when to
stop. lm-eval answers the prompts of `base`. Ours runs in this process, each peer in one of its own, in turn; models and
indexes are loaded and warm before time is taken. Statistics and report are timed apart.

Answers are equal by the rule of `equality.py`. `--workspace` is one that `corpora.py` has left; without it one with an
untrained LoRA adapter at random is made in `benchmarks/results`, which is enough for speed and equality.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from equality import POINT, TIE, f1_difference, gap, key
from evaluating import ROUTES, answer_and_score, note
from naive_eval import PLAIN, TOLD
from serving import RESULTS, Task, add_workspace_arguments, open_workspace

BAR = 6.0
"""How many times as fast as plain `generate` an evaluation is to be, over the four routes."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workspace_arguments(parser)
    parser.add_argument(
        "--peers", type=Path, default=Path(sys.executable), help="the interpreter with the peers"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--questions", type=int, help="so many, from all over the test questions (default: all)"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "eval.json")
    arguments = parser.parse_args()
    sys.exit(compare(open_workspace(arguments), arguments))


def compare(workspace: Path, arguments: argparse.Namespace) -> int:
    """Answer in every way, then print and write what was found; the exit code."""
    from indexer.config import Workspace
    from indexer.files import write_atomically
    from settings import load_settings

    place = Workspace(workspace.resolve())
    settings = load_settings(place)
    model = settings.model.model_copy(update={"dtype": arguments.dtype})
    settings = settings.model_copy(update={"model": model})
    runs: dict[str, list[dict[str, Any]]] = {"openbook": [], "one at a time": [], "lm-eval": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("openbook, with the tokens")
        noted = note(place, settings, arguments.questions, folder / "noted")
        work = folder / "work.json"
        work.write_text(json.dumps(noted.work))
        for n in range(arguments.repeats):
            say("openbook")
            runs["openbook"].append(
                answer_and_score(place, settings, arguments.questions, folder / f"timed-{n}")
            )
            for way in ("one at a time", "lm-eval"):
                say(way)
                runs[way].append(in_peers(arguments.peers, way, work))
    naive = naive_answers(noted.tasks, runs["one at a time"][0])
    found = judge(noted.tasks, noted.answers, naive, arguments.dtype)
    texts = [noted.answers[key(task)]["text"] for task in noted.tasks]
    found["repeated"] = all(run.pop("texts") == texts for run in runs["openbook"])
    for route in (route for run in runs["one at a time"] for route in run["routes"].values()):
        del route["texts"], route["differing"]
    rows = speeds(noted.identity["questions"], runs)
    record = {
        **noted.identity,
        "dtype": noted.work["dtype"],
        "answers a second": rows,
        "equality": found,
        "runs": runs,
    }
    write_atomically(arguments.out, json.dumps(record, indent=1) + "\n")
    return report(record)


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what} ...", file=sys.stderr, flush=True)


def in_peers(interpreter: Path, way: str, work: Path) -> dict[str, Any]:
    """What `naive_eval.py` measured in a process of its own, for which `-P` hides the benchmarks' names."""
    command = [str(interpreter), "-P", str(Path(__file__).with_name("naive_eval.py")), way, str(work)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def judge(
    tasks: Sequence[Task], ours: Mapping[str, Any], naive: Mapping[str, Any], dtype: str
) -> dict[str, Any]:
    """Whether answers are equal: in float32 but for ties, otherwise by the interval of the F1 difference."""
    different = [task for task in tasks if ours[key(task)]["text"] != naive[key(task)]["text"]]
    gaps = {key(task): gap(naive[key(task)], ours[key(task)]) for task in different}
    ties = sum(nats < TIE for nats in gaps.values())
    mean, half = f1_difference([task for task in tasks if task.answers], dict(naive), dict(ours))
    low, high = mean - half, mean + half
    same = ties == len(gaps) if dtype == "float32" else max(abs(low), abs(high)) <= POINT
    return {
        "answers": len(tasks),
        "equal": len(tasks) - len(gaps),
        "ties": ties,
        "nats where they part": gaps,
        "F1 difference": [mean, low, high],
        "passed": same,
    }


def naive_answers(tasks: Sequence[Task], run: Mapping[str, Any]) -> dict[str, Any]:
    """By route and question, what the naive way said; with tokens and margins where that is not what ours did."""
    answers: dict[str, Any] = {}
    for name, route in run["routes"].items():
        own = [task for task in tasks if task.route == name]
        for place, (task, text) in enumerate(zip(own, route["texts"], strict=True)):
            answers[key(task)] = {"text": text} | route["differing"].get(str(place), {})
    return answers


def speeds(questions: int, runs: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A row for each route and one for all: answers a second of everyone, as the median of the repeats."""
    rows = []
    for title, names in [*((name, [name]) for name in ROUTES), ("all four", ROUTES)]:

        def rate(seconds: Sequence[float], names: Sequence[str] = names) -> float:
            return questions * len(names) / statistics.median(seconds)

        row: dict[str, Any] = {"route": title}
        row["openbook"] = rate([sum(run["seconds"][name] for name in names) for run in runs["openbook"]])
        for way in (PLAIN, TOLD):
            parts = [[run["routes"][name]["seconds"] for name in names] for run in runs["one at a time"]]
            row[way] = rate([sum(part["retrieve"] + part[way] for part in run) for run in parts])
        for batch in runs["lm-eval"][0].get("batches", {}) if title == ROUTES[0] else ():
            row[f"lm-eval, batch {batch}"] = rate(
                [run["batches"][batch]["seconds"] for run in runs["lm-eval"]]
            )
        rows.append(row)
    return rows


def report(record: Mapping[str, Any]) -> int:
    """Print every figure with what it must be; the exit code."""
    rows, found, runs = record["answers a second"], record["equality"], record["runs"]
    naive, lm_eval = runs["one at a time"][0], runs["lm-eval"][0]
    print(
        f"{record['questions']} questions, {record['dtype']}, {record['threads']} threads, adapter "
        f"{record['adapter']}; retrieval one at a time: {naive['retrieval']['name']}\n"
    )
    print(f"| answers a second | openbook | {PLAIN} | {TOLD} | times as fast |\n|---|---|---|---|---|")
    for row in rows:
        times = ", ".join(f"{row['openbook'] / row[way]:.1f}" for way in (PLAIN, TOLD))
        speed = " | ".join(f"{row[way]:.2f}" for way in ("openbook", PLAIN, TOLD))
        print(f"| {row['route']} | {speed} | {times} |")
    print()
    for batch, run in lm_eval.get("batches", {}).items():
        speed = rows[0][f"lm-eval, batch {batch}"]
        print(
            f"lm-eval hf on {ROUTES[0]}, batch {batch}: {speed:.2f} answers a second, openbook is "
            f"{rows[0]['openbook'] / speed:.1f} times as fast; {run['equal']} of {record['questions']} texts equal"
        )
    if "skipped" in lm_eval:
        print(f"lm-eval hf: skipped, {lm_eval['skipped']}")
    seconds = statistics.median(run["statistics seconds"] for run in runs["openbook"])
    print(f"statistics and reports, not counted above: {seconds:.1f} s")
    mean, low, high = found["F1 difference"]
    print(f"F1 of openbook minus one at a time: {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    for name, nats in found["nats where they part"].items():
        print(f"  differs: {name}, {nats:.6f} nats between the two likeliest tokens")
    ratio = rows[-1]["openbook"] / rows[-1][PLAIN]
    checks = [
        (f"at least {BAR:g} times one question at a time", f"{ratio:.2f}", ratio >= BAR),
        (
            "equal answers but for ties (float32), F1 within a point (bfloat16)",
            f"{found['equal']} of {found['answers']} equal, {found['ties']} at a tie",
            found["passed"],
        ),
        ("every run of openbook gave the same answers", str(found["repeated"]), found["repeated"]),
    ]
    for wanted, measured, passed in checks:
        print(f"{'pass' if passed else 'FAIL'}: {wanted}: {measured}")
    return 0 if all(passed for _, _, passed in checks) else 1


def become_the_package() -> None:
    """Have `import eval` give the package: whoever runs a benchmark has this folder before all others."""
    spec = spec_from_file_location("eval", Path(__file__).parents[1] / "eval" / "__init__.py")
    if spec is None or spec.loader is None:
        raise ImportError("the package eval is not beside the benchmarks")
    sys.modules["eval"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main()
elif __name__ == "eval":
    become_the_package()
