"""`benchmarks/eval.py` compares like with like; it measures speed at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel

from service.generation import GenerationRequest, LocalGenerator
from tests.tiny import tiny_adapter, tiny_base
from tuner.decoding import Sampling
from tuner.registry import Registry

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))  # a benchmark imports its neighbours by their names

from evaluating import ROUTES, Noting  # noqa: E402
from naive_eval import PLAIN, TOLD, answer_route  # noqa: E402
from serving import Task  # noqa: E402

from benchmarks.eval import judge, speeds  # noqa: E402

QUESTIONS = ("When does the harbour open?", "Who?", "How many steps has the tower, and how high is it?")
TASKS = [Task("rag", None, str(n), "?", ("yes",), "prompt", ()) for n in range(3)]


@pytest.mark.parametrize("adapter", [None, "mixed@1"])
@pytest.mark.parametrize("stop", [(), ("a", "e")])
def test_one_question_at_a_time_says_what_openbook_says_in_a_batch(
    tmp_path: Path, adapter: str | None, stop: tuple[str, ...]
) -> None:
    base, plain = tiny_base(), tiny_base()
    folder = tiny_adapter(tmp_path, base).path
    noting = Noting(LocalGenerator(base, Registry(tmp_path)))
    sampling = Sampling(12, stop=stop)
    requests = [
        GenerationRequest(tuple(base.tokenizer(q)["input_ids"]), adapter, sampling) for q in QUESTIONS
    ]
    ours = [answer.text for answer in noting.generate(requests)]

    model = PeftModel.from_pretrained(plain.model, str(folder)) if adapter else plain.model
    asked = [{"question": q, "prompt": q, "expected": "something else"} for q in QUESTIONS]
    route = {"retrieve": False, "k": 1, "stop": list(stop), "max_new_tokens": 12, "asked": asked}
    naive = answer_route(model, plain.tokenizer, lambda question, k: [], route)

    assert naive["texts"] == ours
    assert naive["seconds"][PLAIN] > 0
    for place, request in enumerate(requests):
        tokens, noted = naive["differing"][str(place)]["tokens"], noting.answers[request]
        assert tokens[: len(noted["tokens"])] == noted["tokens"]
        assert naive["differing"][str(place)]["margins"][: len(noted["margins"])] == pytest.approx(
            noted["margins"], abs=1e-3
        )


def answers(*texts: str, margin: float = 1.0) -> dict[str, Any]:
    return {
        f"rag {n}": {"text": text, "tokens": list(text), "margins": [margin] * len(text)}
        for n, text in enumerate(texts)
    }


def test_an_answer_that_differs_at_a_tie_counts_as_equal_in_float32() -> None:
    found = judge(TASKS, answers("yes", "yes", "yes"), answers("yes", "yet", "yes", margin=1e-5), "float32")
    assert (found["equal"], found["ties"], found["passed"]) == (2, 1, True)


def test_an_answer_that_differs_elsewhere_fails_in_float32() -> None:
    found = judge(TASKS, answers("yes", "yes", "yes"), answers("yes", "yet", "yes"), "float32")
    assert (found["equal"], found["ties"], found["passed"]) == (2, 0, False)


def test_in_bfloat16_it_is_the_f1_that_must_be_equal() -> None:
    ours = answers("yes", "no", "yes")
    assert judge(TASKS, ours, answers("yes", "nay", "yes"), "bfloat16")["passed"]
    assert not judge(TASKS, ours, answers("yes", "yes", "yes"), "bfloat16")["passed"]


def test_speed_is_that_of_the_median_run_and_the_last_row_is_of_all_routes() -> None:
    ours = [{"seconds": dict.fromkeys(ROUTES, seconds)} for seconds in (1.0, 2.0, 30.0)]
    part = {"seconds": {"retrieve": 1.0, PLAIN: 19.0, TOLD: 9.0}}
    runs = {
        "openbook": ours,
        "one at a time": [{"routes": dict.fromkeys(ROUTES, part)}],
        "lm-eval": [{"skipped": "not installed"}],
    }
    *routes, together = speeds(10, runs)
    assert [row["route"] for row in routes] == list(ROUTES)
    assert together == {"route": "all four", "openbook": 5.0, PLAIN: 0.5, TOLD: 1.0}


def test_benchmarks_beside_it_still_import_the_package_of_the_same_name() -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); from importlib.resources import files; "
    program += "from eval.statistics import ALPHA; print(files('eval') / 'templates')"
    done = subprocess.run(
        [sys.executable, "-c", program, str(BENCHMARKS)], capture_output=True, check=True, text=True
    )
    assert Path(done.stdout.strip()) == BENCHMARKS.parent / "eval" / "templates"
