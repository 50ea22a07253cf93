from __future__ import annotations

import json
from pathlib import Path

import pytest

from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.database import IndexMissing
from indexer.retriever import Index
from indexer.sync import sync
from service import assembly
from service.assembly import open_answerer, solved_examples
from service.commands import print_answer
from service.config import RouteConfig, routes_from_config
from tests.fakes import HashEncoder
from tests.fakes_service import DOCUMENTS
from tests.tiny import tiny_adapter, tiny_base


def question(id: str, text: str, answers: tuple[str, ...], split: Split = Split.TRAIN) -> Question:  # noqa: A002
    return Question(id, text, answers, ("folder/tower.md",), split)


QUESTIONS = [
    question("steps", "How many steps has the tower?", ("412",)),
    question("height", "How high is the tower?", ("88 metres",)),
    question("colour", "What colour is the tower?", ("teal",)),
    question("architect", "Who designed the tower?", ()),
    question("dev", "How tall is the tower?", ("88 metres",), Split.DEV),
    question("test", "What is the height of the tower?", ("88 metres",), Split.TEST),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    lines = [json.dumps({"id": d.id, "title": d.title, "text": d.text}) for d in DOCUMENTS]
    (tmp_path / "documents.jsonl").write_text("\n".join(lines))
    return Workspace(tmp_path)


@pytest.fixture
def indexed(workspace: Workspace) -> Workspace:
    sync(workspace, workspace.root / "documents.jsonl", HashEncoder(), chunk_tokens=64)
    return workspace


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace asks for real weights; the tests hand it small ones."""
    monkeypatch.setattr(assembly, "load_base", lambda ref, dtype: tiny_base())
    monkeypatch.setattr(assembly, "load_encoder", lambda ref: HashEncoder())


def test_answerer_of_a_workspace_answers_by_every_route(indexed: Workspace) -> None:
    tiny_adapter(indexed.adapters, tiny_base())
    answerer = open_answerer(indexed, ModelConfig(), routes_from_config({}), QUESTIONS, IndexConfig())
    answers = [answerer.answer("How high is the tower?", name) for name in answerer.routes]
    assert [answer.generation for answer in answers] == [None, 1, None, 1]
    assert [answer.adapter for answer in answers] == [None, None, "mixed@1", "mixed@1"]
    assert answers[1].contexts[0].document_id == "folder/tower.md"


def test_workspace_without_an_index_says_how_to_build_one(workspace: Workspace) -> None:
    with pytest.raises(IndexMissing, match="openbook index"):
        open_answerer(workspace, ModelConfig(), routes_from_config({}), [], IndexConfig())


def test_closed_book_routes_need_no_index(workspace: Workspace) -> None:
    base = routes_from_config({})["base"]
    assert (
        open_answerer(workspace, ModelConfig(), {"base": base}, [], IndexConfig())
        .answer("Why?", "base")
        .contexts
        == ()
    )


def test_examples_are_solved_train_questions_with_the_passage_that_holds_the_answer(
    indexed: Workspace,
) -> None:
    index = Index.open(indexed, HashEncoder())
    examples = solved_examples(QUESTIONS, index, 3)
    assert {example.answer for example in examples} == {"412", "88 metres"}
    for example in examples:
        [context] = example.contexts
        assert example.answer in context.text


def test_examples_without_an_index_have_no_passages() -> None:
    examples = solved_examples(QUESTIONS, None, 3)
    assert {example.answer for example in examples} == {"412", "88 metres", "teal"}
    assert all(example.contexts == () for example in examples)


def test_examples_do_not_depend_on_the_order_of_the_file() -> None:
    assert solved_examples(QUESTIONS, None, 1) == solved_examples(QUESTIONS[::-1], None, 1)


def test_no_examples_are_made_where_no_route_shows_any() -> None:
    assert solved_examples(QUESTIONS, None, 0) == []


def test_route_shows_its_examples(indexed: Workspace) -> None:
    routes = routes_from_config({"rag": RouteConfig(examples=2)})
    answerer = open_answerer(indexed, ModelConfig(), routes, QUESTIONS, IndexConfig())
    without = routes_from_config({"rag": RouteConfig(examples=0)})
    plain = open_answerer(indexed, ModelConfig(), without, QUESTIONS, IndexConfig())
    asked = "What does the bakery sell?"
    assert answerer.answer(asked, "rag").prompt_tokens > plain.answer(asked, "rag").prompt_tokens


def test_ask_prints_the_answer_for_people_or_for_machines(
    indexed: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    answerer = open_answerer(indexed, ModelConfig(), routes_from_config({}), [], IndexConfig())
    answer = answerer.answer("How high is the tower?", "rag")
    print_answer(answer, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["route"], printed["generation"]) == ("rag", 1)
    print_answer(answer, as_json=False)
    assert "rag: tiny, " in capsys.readouterr().out
