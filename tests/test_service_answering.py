from __future__ import annotations

from pathlib import Path

import pytest

from indexer.database import IndexMissing
from service.answering import Answerer, UnknownRoute, is_abstention, supports
from service.config import RouteConfig, routes_from_config
from service.generation import LocalGenerator
from service.preparation import PromptTooLong
from service.routes import Route
from tests.fakes_service import ScriptedGenerator, make_answerer
from tests.tiny import tiny_adapter, tiny_base
from tuner.prompt import ABSTENTION, Context, SolvedExample
from tuner.registry import AdapterError, Registry

TOWER = "How high is the tower?"


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def answerer(tmp_path: Path, generator: ScriptedGenerator) -> Answerer:
    tiny_adapter(tmp_path, tiny_base())
    return make_answerer(tmp_path, generator)


def prompt_text(answerer: Answerer, generator: ScriptedGenerator, place: int = 0) -> str:
    return str(answerer.base.tokenizer.decode(generator.history[-1][place].prompt))


def test_retrieving_route_shows_contexts_and_cites_the_one_with_the_answer(
    answerer: Answerer, generator: ScriptedGenerator
) -> None:
    generator.enqueue("88 Metres")
    answer = answerer.answer(TOWER, "rag")
    assert len(answer.contexts) == 3
    assert [context.number for context in answer.contexts] == [1, 2, 3]
    [citation] = answer.citations
    assert (citation.document_id, citation.text) == (
        "folder/tower.md",
        "The tower is 88 metres high and has 412 steps.",
    )
    assert answer.generation == 7
    assert answer.adapter is None
    assert "[1] Tower: The tower is 88 metres high" in prompt_text(answerer, generator)


def test_citation_offsets_point_into_the_document(answerer: Answerer) -> None:
    for citation in answerer.answer("When does the harbour open?", "rag").contexts:
        document = answerer.document(citation.document_id)
        assert document is not None
        assert document.text[citation.start : citation.end] == citation.text


def test_closed_book_route_neither_retrieves_nor_cites(
    answerer: Answerer, generator: ScriptedGenerator
) -> None:
    answer = answerer.answer(TOWER, "base")
    assert answer.contexts == ()
    assert answer.citations == ()
    assert answer.generation is None
    assert answer.timings_ms.retrieve == 0


def test_abstention_is_recognised_and_cites_nothing(answerer: Answerer, generator: ScriptedGenerator) -> None:
    generator.enqueue(ABSTENTION)
    answer = answerer.answer(TOWER, "rag")
    assert answer.abstained
    assert answer.citations == ()


def test_empty_answer_is_no_abstention_and_cites_nothing(
    answerer: Answerer, generator: ScriptedGenerator
) -> None:
    generator.enqueue("")
    answer = answerer.answer(TOWER, "rag")
    assert not answer.abstained
    assert answer.citations == ()


def test_adapter_routes_use_the_promoted_version_at_that_moment(
    answerer: Answerer, generator: ScriptedGenerator, tmp_path: Path
) -> None:
    assert answerer.answer(TOWER, "tuned").adapter == "mixed@1"
    tiny_adapter(tmp_path, tiny_base(), seed=1)
    assert answerer.answer(TOWER, "hybrid").adapter == "mixed@2"
    assert [request.adapter for [request] in generator.history] == ["mixed@1", "mixed@2"]


def test_many_questions_make_one_batch_and_keep_their_order(
    answerer: Answerer, generator: ScriptedGenerator
) -> None:
    generator.enqueue("a", "b", "c")
    pairs = [
        (TOWER, answerer.route("base")),
        ("Who built the oven?", answerer.route("rag")),
        (TOWER, answerer.route("tuned")),
    ]
    answers = answerer.answer_many(pairs)
    assert [(a.answer, a.route, len(a.contexts)) for a in answers] == [
        ("a", "base", 0),
        ("b", "rag", 3),
        ("c", "tuned", 0),
    ]
    assert len(generator.history) == 1


def test_routes_of_different_depth_each_get_their_own_k(answerer: Answerer) -> None:
    shallow, deep = Route("shallow", retrieve=True, k=1), Route("deep", retrieve=True, k=5)
    answers = answerer.answer_many([(TOWER, shallow), (TOWER, deep)])
    assert [len(answer.contexts) for answer in answers] == [1, 5]


def test_no_questions_make_no_answers(answerer: Answerer) -> None:
    assert answerer.answer_many([]) == []


def test_contexts_that_do_not_fit_are_dropped_from_the_end(
    answerer: Answerer, generator: ScriptedGenerator
) -> None:
    full = answerer.answer_many([(TOWER, Route("r", retrieve=True, k=5))])[0]
    room = full.prompt_tokens - 1
    answer = answerer.answer_many([(TOWER, Route("r", retrieve=True, k=5, max_new_tokens=4096 - room))])[0]
    assert answer.contexts == full.contexts[:4]
    assert answer.prompt_tokens <= room


def test_question_that_does_not_fit_at_all_is_refused(answerer: Answerer) -> None:
    with pytest.raises(PromptTooLong, match=r"tokens without any context, and tiny has room for 4064"):
        answerer.answer("why " * 1015, "rag")
    with pytest.raises(PromptTooLong, match=r"the question takes 8000 tokens, and tiny has room for 4064"):
        answerer.answer("why " * 2000, "rag")


def test_unknown_route_names_the_known_ones(answerer: Answerer) -> None:
    with pytest.raises(UnknownRoute, match="unknown route 'rga'; known: base, rag, tuned, hybrid"):
        answerer.answer(TOWER, "rga")


def test_route_with_an_untrained_adapter_says_how_to_train_it(
    tmp_path: Path, generator: ScriptedGenerator
) -> None:
    with pytest.raises(AdapterError, match="openbook tune"):
        make_answerer(tmp_path / "empty", generator).answer(TOWER, "tuned")


def test_retrieving_without_an_index_says_how_to_build_one(
    tmp_path: Path, generator: ScriptedGenerator
) -> None:
    answerer = Answerer(tiny_base(), generator, None, Registry(tmp_path), routes_from_config({}))
    with pytest.raises(IndexMissing, match="openbook index"):
        answerer.answer(TOWER, "rag")
    assert answerer.answer(TOWER, "base").contexts == ()


def test_examples_are_shown_with_passages_only_where_the_route_retrieves(
    tmp_path: Path, generator: ScriptedGenerator
) -> None:
    examples = [
        SolvedExample(question, "solved", (Context("Title", f"passage of {question}"),))
        for question in ("first?", "second?", "third?")
    ]
    tables = {"base": RouteConfig(examples=2), "rag": RouteConfig(retrieve=True, examples=2)}
    answerer = make_answerer(tmp_path, generator, examples=examples, tables=tables)
    answerer.answer("second?", "base")
    shown = prompt_text(answerer, generator)
    assert "first?" in shown
    assert "third?" in shown
    assert shown.count("second?") == 1, "the question asked must not be among the solved ones"
    assert "passage of" not in shown
    answerer.answer(TOWER, "rag")
    assert "passage of first?" in prompt_text(answerer, generator)


def test_four_routes_run_on_one_resident_model(tmp_path: Path) -> None:
    base = tiny_base()
    tiny_adapter(tmp_path, base)
    answerer = make_answerer(tmp_path, LocalGenerator(base, Registry(tmp_path)), base=base)
    together = answerer.answer_many([(TOWER, route) for route in answerer.routes.values()])
    assert len({answer.answer for answer in together}) == 4
    for answer in together:
        assert answerer.answer(TOWER, answer.route).answer == answer.answer


@pytest.mark.parametrize(
    "text", ["I don't know.", "i don\u2019t know", "I dont know", "I don't know. The text is silent."]
)
def test_abstention_is_recognised_however_it_is_written(text: str) -> None:
    assert is_abstention(text)


@pytest.mark.parametrize("text", ["", "I don't knowingly agree", "He said: I don't know."])
def test_other_answers_are_no_abstention(text: str) -> None:
    assert not is_abstention(text)


def test_support_means_whole_words() -> None:
    assert supports("opens at 06:40, daily", "06:40")
    assert supports("the O'Neill   bridge", "oneill bridge")
    assert not supports("it has 412 steps", "41")
    assert not supports("anything", " .")
