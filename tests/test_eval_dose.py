"""Dose and response: the curve shows what was measured, and the next report shows the curve."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from benchmarks import dose
from benchmarks.dose import dose_result, keep, refusal, table, train
from eval.config import EvalConfig
from eval.dose import Dose, advice, dose_plot
from eval.run import evaluate
from indexer.config import Workspace
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_questions, right_answer
from tuner.config import SynthesisConfig, TuneConfig
from tuner.registry import Manifest

SVG = "{http://www.w3.org/2000/svg}"


def trained(closed_book: float, open_book: float, corpus: str = "corpus") -> Manifest:
    scores = {"closed_book": closed_book, "open_book_2": open_book}
    return Manifest(
        base_model=SETUP.base_model,
        base_model_hash=SETUP.base_model_hash,
        corpus_hash=corpus,
        corpus_generation=1,
        questions_hash="questions",
        prompt_hash="prompt",
        recipe="mixed",
        method="lora",
        settings={},
        seed=0,
        rows={},
        tokens=1000,
        steps=10,
        seconds=60.0,
        dev_scores={**scores, "score": (closed_book + open_book) / 2},
        weights_hash="weights",
        versions={},
        created="2026-11-28",
    )


TRAINED = {0: trained(0.1, 0.5), 2: trained(0.2, 0.6), 8: trained(0.25, 0.55)}


def test_curves_hold_every_dose_and_score() -> None:
    svg = fromstring(dose_plot(dose_result(TRAINED, "f1")).svg)
    curves = [element for element in svg.iter() if "curve" in element.get("class", "").split()]
    points = [[tuple(map(float, p.split(","))) for p in c.get("points", "").split()] for c in curves]
    assert len(points) == 2
    (x0, closed0), (x2, closed2), (x8, closed8) = points[0]
    assert x8 - x0 == pytest.approx(4 * (x2 - x0), abs=0.5)
    assert closed2 - closed8 == pytest.approx((closed0 - closed2) / 2, abs=0.2)
    assert points[1][1][1] < points[1][2][1], "0.6 stands above 0.55"
    said = svg[1].text or ""
    assert "closed book: 0.100 at 0, 0.200 at 2, 0.250 at 8" in said
    assert {text.text for text in svg.iter(f"{SVG}text")} >= {"closed book", "open book 2"}


def test_one_dose_is_drawn_too() -> None:
    assert "at 4" in dose_plot(dose_result({4: trained(0.1, 0.5)}, "f1")).svg


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({0: 0.1, 4: 0.3}, "highest (0.300) at a dose of 4 phrasings of each fact, the most that were tried"),
        ({0: 0.1, 4: 0.3, 8: 0.2}, "at a dose of 4 phrasings of each fact; 8 give 0.200"),
        ({2: 0.1, 4: 0.1}, "at a dose of 2"),
    ],
)
def test_advice_is_the_least_dose_with_the_highest_mean(means: dict[int, float], said: str) -> None:
    doses = [Dose(phrasings=n, scores={"a": m, "b": m}, tokens=1, seconds=1.0) for n, m in means.items()]
    assert said in advice(doses)


def test_table_has_a_row_a_dose() -> None:
    assert re.search(r"\| 8 +\| 0.250 +\| 0.550 +\| 1,000 +\| 60 +\|", table(dose_result(TRAINED, "f1")))


def test_what_the_benchmark_keeps_is_in_the_next_report(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    kept = keep(dose_result(TRAINED, "f1"), workspace)
    keep(dose_result({0: trained(0.9, 0.9, corpus="other documents")}, "f1"), workspace)
    evaluation = evaluate(
        ScriptedRoutes(lambda question, route: right_answer(question)),
        make_questions(12),
        ROUTES,
        workspace.evaluations / "one",
        EvalConfig(resamples=1000, latency_questions=1),
    )
    html = (evaluation.folder / "report.html").read_text()
    assert html.count('<figure id="dose-response">') == 1
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert "closed book: 0.100 at 0" in html
    for report in (html, (evaluation.folder / "report.md").read_text()):
        assert "Dose and response" in report
        assert "the mean dev score is highest (0.400) at a dose of 2" in report.lower()
        assert f"{kept.parent.name}/dose.json" in report


SYNTHESIS = SynthesisConfig(url="http://localhost/v1", model="writer")


@pytest.mark.parametrize(
    ("tune", "doses", "said"),
    [
        (TuneConfig(), [0, 8, 40], None),
        (TuneConfig(synthesis=SYNTHESIS), [0, 20], None),
        (TuneConfig(synthesis=SYNTHESIS), [0, 20, 40], r"40 cannot .* tune\.synthesis\.paraphrases: .* 20$"),
        (TuneConfig(), [-1, 4], r"-1 cannot be trained: tune\."),
    ],
)
def test_a_dose_that_cannot_be_trained_is_refused_before_any_is(
    tune: TuneConfig, doses: list[int], said: str | None
) -> None:
    found = refusal(tune, doses)
    assert found is None if said is None else re.search(said, found or "")


def test_a_dose_reaches_the_training_by_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openbook = tmp_path / "openbook"
    openbook.write_text('#!/bin/sh\nenv > "$0.env"\nexit 1\n')
    openbook.chmod(0o755)
    monkeypatch.setattr(dose, "OPENBOOK", openbook)
    with pytest.raises(subprocess.CalledProcessError):
        train(Workspace(tmp_path), TuneConfig(synthesis=SYNTHESIS), 7)
    assert {line for line in (tmp_path / "openbook.env").read_text().splitlines() if "TUNE" in line} == {
        "OPENBOOK_TUNE__ADAPTER=dose-7",
        "OPENBOOK_TUNE__DOCUMENT_PASSES=7",
        "OPENBOOK_TUNE__CLOSED_BOOK_PASSES=7",
        "OPENBOOK_TUNE__SYNTHESIS__PARAPHRASES=7",
        "OPENBOOK_TUNE__SYNTHESIS__QUESTIONS=7",
        "OPENBOOK_TUNE__SYNTHESIS__STATEMENTS=7",
    }


def test_the_benchmark_says_so_and_leaves_the_workspace_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "openbook.toml").write_text(
        '[tune.synthesis]\nurl = "http://localhost/v1"\nmodel = "writer"\n'
    )
    monkeypatch.setattr(sys, "argv", ["dose.py", str(tmp_path), "--doses", "4", "21"])
    with pytest.raises(SystemExit, match="2"):
        dose.main()
    assert "21 cannot be trained: tune.synthesis.paraphrases" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["openbook.toml"]
