import json
import logging
import re
from pathlib import Path

import pytest
from fakes import HashEncoder
from tiny import tiny_base

from indexer.config import ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.ranking import FUSED, Ranking
from indexer.retriever import Index
from indexer.sync import sync
from tuner import adapter_commands
from tuner.commands import NotPromoted, TuneError, show_plan, tune
from tuner.config import TuneConfig
from tuner.dev import Metric
from tuner.gates import Comparison, Measure, Measured
from tuner.lock import TuneBusy, tune_lock
from tuner.registry import AdapterError, Registry
from tuner.trained_on import read_trained_on, refuse_seen_questions

SETTINGS = TuneConfig(rank=2, document_passes=1, closed_book_passes=1, open_book_passes=1, dev_checks=1)
QUESTIONS = [
    Question("q1", "What does a Wren weigh?", ("600 g",), ("wren.md",), Split.TRAIN),
    Question("q2", "Who drew the Heron?", ("Stroud",), ("heron.md",), Split.DEV),
    Question("q3", "Where does the Pelican fly?", ("Harl",), ("heron.md",), Split.TEST),
]


@pytest.fixture
def workspace(tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "wren.md").write_text("# Wren\n\nThe Wren weighs 600 g.\n")
    (documents / "heron.md").write_text("# Heron\n\nStroud drew the Heron in Harl.\n")
    workspace = Workspace(tmp_path)
    sync(workspace, documents, HashEncoder(), 32)
    return workspace


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    base = tiny_base()
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return ModelConfig(base=str(folder), dtype="float32")


def better(_key):
    return Measured([Comparison("tuned", "base", (0.9,), (0.1,), must_win=True)])


def worse(_key):
    return Measured([Comparison("tuned", "base", (0.1,), (0.9,), must_win=True)])


def never(_key):
    raise AssertionError("measured twice")


def run(
    workspace,
    model,
    measure=better,
    settings=SETTINGS,
    questions=QUESTIONS,
    force=False,
    conditions="",
    metric="f1",
    ranking=FUSED,
):
    retriever = Index.open(workspace, HashEncoder(), ranking).retriever()
    tune(
        workspace,
        model,
        settings,
        questions,
        retriever,
        Metric(metric, lambda *_: 0.5),
        measure and Measure(measure, conditions),
        force,
        as_json=True,
    )


def test_a_better_adapter_is_promoted_and_not_trained_twice(workspace, model, capsys):
    run(workspace, model)
    run(workspace, model, measure=never)
    registry = Registry(workspace.adapters)
    assert (registry.versions("mixed"), registry.promoted("mixed")) == ([1], 1)
    assert "already trained" in capsys.readouterr().err


def test_a_worse_adapter_is_kept_but_not_promoted_and_says_why_every_time(workspace, model, capsys):
    for measure in (worse, never):
        with pytest.raises(NotPromoted, match=r"tuned scores 0\.100 .*openbook adapters promote mixed@1"):
            run(workspace, model, measure)
    registry = Registry(workspace.adapters)
    assert (registry.versions("mixed"), registry.promoted("mixed")) == ([1], None)
    adapter_commands.list_adapters(workspace, as_json=False)
    assert "tuned scores 0.100" in capsys.readouterr().out
    adapter_commands.promote_adapter(workspace, "mixed@1")
    assert registry.promoted("mixed") == 1
    run(workspace, model, never)


def test_gates_are_measured_again_under_other_conditions(workspace, model):
    with pytest.raises(NotPromoted):
        run(workspace, model, worse, conditions="few questions")
    with pytest.raises(NotPromoted):
        run(workspace, model, never, conditions="few questions")
    run(workspace, model, better, conditions="more questions")
    registry = Registry(workspace.adapters)
    assert (registry.versions("mixed"), registry.promoted("mixed")) == ([1], 1)


def test_what_failed_is_forgotten_once_nothing_is_compared_any_more(workspace, model):
    with pytest.raises(NotPromoted):
        run(workspace, model, worse, conditions="two routes")
    run(workspace, model, lambda _key: Measured(()), conditions="none")
    registry = Registry(workspace.adapters)
    assert registry.promoted("mixed") == 1
    assert registry.gates(registry.resolve("mixed")).failures == ()


def test_another_metric_chooses_other_weights(workspace, model):
    run(workspace, model)
    run(workspace, model, metric="exact_match")
    registry = Registry(workspace.adapters)
    metrics = [registry.resolve(f"mixed@{n}").manifest.settings["dev_metric"] for n in (1, 2)]
    assert metrics == ["f1", "exact_match"]


def test_a_damaged_version_is_trained_again_and_hides_no_other(workspace, model, capsys):
    run(workspace, model)
    registry = Registry(workspace.adapters)
    (workspace.adapters / "mixed" / "1" / "manifest.json").write_text("{")
    run(workspace, model)
    assert (registry.versions("mixed"), registry.promoted("mixed")) == ([1, 2], 2)
    adapter_commands.list_adapters(workspace, as_json=False)
    shown = capsys.readouterr()
    assert "mixed@2 (promoted)" in shown.out
    assert "mixed@1 has no readable manifest.json" in shown.err


def test_a_question_made_by_rule_that_becomes_a_test_question_is_noticed(workspace, model):
    settings = SETTINGS.model_copy(update={"pattern_passes": 1})
    run(workspace, model, settings=settings)
    registry = Registry(workspace.adapters)
    first = registry.resolve("mixed@1")
    assert first.manifest.rows["pattern"]
    new = Question("q9", "How much does the Wren weigh?", ("600 g",), ("wren.md",), Split.TEST)
    with pytest.raises(AdapterError, match=r"trained on 1 of the test questions \(q9\)"):
        refuse_seen_questions(first, [new])
    run(workspace, model, settings=settings, questions=[*QUESTIONS, new])
    second = registry.resolve("mixed")
    assert second.version == 2
    assert second.manifest.rows.get("pattern", 0) < first.manifest.rows["pattern"]
    refuse_seen_questions(second, [new])


def test_more_test_questions_change_nothing_where_no_question_is_made(workspace, model):
    run(workspace, model)
    new = Question("q9", "How much does the Wren weigh?", ("600 g",), ("wren.md",), Split.TEST)
    run(workspace, model, measure=never, questions=[*QUESTIONS, new])
    assert Registry(workspace.adapters).versions("mixed") == [1]


def test_another_ranking_of_passages_is_another_training(workspace, model):
    run(workspace, model)
    run(workspace, model, ranking=Ranking(max_per_document=1))
    assert Registry(workspace.adapters).versions("mixed") == [1, 2]


def test_a_run_killed_before_its_gates_goes_on_with_them(workspace, model):
    def killed(_key):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(workspace, model, killed)
    run(workspace, model, better)
    assert (
        Registry(workspace.adapters).versions("mixed"),
        Registry(workspace.adapters).promoted("mixed"),
    ) == ([1], 1)


def test_without_gates_the_adapter_is_promoted(workspace, model):
    run(workspace, model, measure=None)
    assert Registry(workspace.adapters).promoted("mixed") == 1


def test_the_adapter_records_what_it_has_seen_and_grows_stale(workspace, model, capsys):
    run(workspace, model)
    seen = read_trained_on(Registry(workspace.adapters).resolve("mixed"))
    assert set(seen.documents) == {"wren.md", "heron.md"}
    assert set(seen.questions) == {"q1", "q2"}
    (workspace.root / "documents" / "wren.md").write_text("# Wren\n\nThe Wren weighs 650 g.\n")
    sync(workspace, workspace.root / "documents", HashEncoder(), 32)
    capsys.readouterr()
    adapter_commands.list_adapters(workspace, as_json=True)
    (listed,) = json.loads(capsys.readouterr().out)
    expected = "trained on generation 1; 1 document changed since (wren.md); these facts may be old"
    assert listed["stale"] == expected
    adapter_commands.show_adapter(workspace, "mixed")
    assert json.loads(capsys.readouterr().out)["stale"] == expected


def test_two_runs_of_one_adapter_do_not_mix(workspace, model):
    with tune_lock(workspace.data, "mixed"), pytest.raises(TuneBusy, match="training adapter 'mixed'"):
        run(workspace, model)


def test_questions_to_train_and_to_stop_on_are_required(workspace, model):
    for split in (Split.TRAIN, Split.DEV):
        kept = [q for q in QUESTIONS if q.split is not split]
        with pytest.raises(TuneError, match=f"no answerable {split} questions"):
            run(workspace, model, questions=kept)


def test_versions_are_compared_by_inputs_and_weights(workspace, model, capsys):
    run(workspace, model)
    run(workspace, model, settings=SETTINGS.model_copy(update={"seed": 4}))
    capsys.readouterr()
    adapter_commands.diff_adapters(workspace, "mixed@1", "mixed@2")
    said = capsys.readouterr().out
    assert "seed: 0 -> 4" in said
    assert "settings.seed: 0 -> 4" in said
    assert re.search(r"relative distance \d\.\d+", said)
    adapter_commands.diff_adapters(workspace, "mixed@1", "mixed@1")
    assert "no difference" in capsys.readouterr().out


def test_a_plan_shows_rows_tokens_time_and_memory_and_trains_nothing(workspace, model, capsys, caplog):
    caplog.set_level(logging.INFO, "openbook")
    retriever = Index.open(workspace, HashEncoder()).retriever()
    show_plan(workspace, model, SETTINGS, QUESTIONS, retriever, try_steps=True, as_json=True)
    captured = capsys.readouterr()
    plan = json.loads(captured.out)
    assert plan["tokens"] == sum(plan["tokens_by_kind"].values())
    assert plan["probe"]["tokens_per_second"] > 0
    assert plan["probe"]["peak_bytes"] > 2**20
    assert "peak memory" in captured.err
    assert "score" not in caplog.text
    assert Registry(workspace.adapters).names() == []


def test_a_dry_run_tries_no_step(workspace, model, capsys):
    retriever = Index.open(workspace, HashEncoder()).retriever()
    show_plan(workspace, model, SETTINGS, QUESTIONS, retriever, try_steps=False, as_json=False)
    said = capsys.readouterr().out
    assert "leakage: none of 1 test questions" in said
    assert "in all" in said
    assert "tokens/s" not in said


def test_general_texts_are_replayed_and_a_change_of_them_is_another_run(workspace, model):
    file = workspace.root / "general.jsonl"
    settings = SETTINGS.model_copy(
        update={"replay": Path("general.jsonl"), "replay_share": 0.5, "general": Path("bundled")}
    )
    for text in ("Rain falls.", "Snow falls."):
        file.write_text(json.dumps({"text": text}) + "\n")
        run(workspace, model, settings=settings)
    registry = Registry(workspace.adapters)
    assert registry.versions("mixed") == [1, 2]
    assert registry.resolve("mixed").manifest.rows["replay"] == 1
    run(workspace, model, never, settings=settings.model_copy(update={"general": None}))
    assert registry.versions("mixed") == [1, 2]
