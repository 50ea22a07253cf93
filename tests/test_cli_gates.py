import json

import pytest

from cli.gates import measure_on_dev
from eval.answers import EvalError
from indexer.config import Workspace
from indexer.corpus import Question, Split
from settings import load_settings

DEV = Question("d1", "What does a Wren weigh?", ("600 g",), ("wren.md",), Split.DEV)
GENERAL = {"question": "What colour is snow?", "choices": ["white", "green"], "answer": 0}


def conditions(folder, config="", questions=(DEV,)):
    (folder / "openbook.toml").write_text(config)
    workspace = Workspace(folder)
    return measure_on_dev(workspace, load_settings(workspace), questions).conditions


def test_conditions_are_the_questions_metric_routes_and_general_questions(tmp_path):
    general = tmp_path / "general.jsonl"
    general.write_text(json.dumps(GENERAL))
    train = Question("t1", "What does a Heron weigh?", ("900 g",), ("heron.md",), Split.TRAIN)
    reworded = Question("d1", "How heavy is a Wren?", ("600 g",), ("wren.md",), Split.DEV)
    usual = conditions(tmp_path)
    assert conditions(tmp_path, questions=[train, DEV]) == usual
    others = [
        conditions(tmp_path, questions=[reworded]),
        conditions(tmp_path, '[eval]\nprimary_metric = "exact_match"'),
        conditions(tmp_path, "[routes.rag]\nk = 2"),
        conditions(tmp_path, '[tune]\ngeneral = "bundled"'),
        conditions(tmp_path, '[tune]\ngeneral = "general.jsonl"'),
    ]
    general.write_text(json.dumps({**GENERAL, "answer": 1}))
    others.append(conditions(tmp_path, '[tune]\ngeneral = "general.jsonl"'))
    assert len({usual, *others}) == 1 + len(others)


@pytest.mark.parametrize("text", [None, "", "not JSON"])
def test_general_questions_that_cannot_be_read_are_told_before_training(tmp_path, text):
    if text is not None:
        (tmp_path / "general.jsonl").write_text(text)
    with pytest.raises(EvalError, match=r"general\.jsonl"):
        conditions(tmp_path, '[tune]\ngeneral = "general.jsonl"')
