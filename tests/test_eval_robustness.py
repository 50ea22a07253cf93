"""Routes under other wordings, other passages, and documents that give orders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from eval.answers import EvalError
from eval.arranged import ArrangedIndex, searching, with_distractors, with_gold_at
from eval.asking import LocalAsker
from eval.config import EvalConfig
from eval.injection import CANARY, planted_index
from eval.local import LocalRoutes
from eval.oracle import gold_chunks
from eval.perturbations import Kind
from eval.robustness import AS_ASKED, INJECTED, RobustnessResult, Variant, measure_robustness
from eval.robustness_commands import format_robustness
from eval.robustness_variants import Subject, open_variants
from indexer.config import Workspace
from indexer.corpus import Question, Split
from indexer.database import open_published
from indexer.retriever import Index
from indexer.sync import sync
from service.answering import Answerer
from service.generation import GenerationRequest
from service.routes import Route
from tests.fakes import HashEncoder
from tests.fakes_eval import ROUTES, SETUP, ScriptedRoutes, make_questions, right_answer
from tests.fakes_service import ScriptedGenerator
from tests.tiny import tiny_base
from tuner.decoding import Decoded
from tuner.registry import Registry

SETTINGS = EvalConfig(resamples=1000, latency_questions=1)
RAG = Route("rag", retrieve=True, prompt="brief", k=2)
NAMES = (
    "harbour",
    "bakery",
    "tower",
    "foundry",
    "library",
    "orchard",
    "cellar",
    "chapel",
    "market",
    "quarry",
)
QUESTIONS = [
    Question(name, f"Which keeper looks after the {name}?", (f"Keeper {n}",), (f"{name}.md",), Split.TEST)
    for n, name in enumerate(NAMES)
]


class Reader(ScriptedGenerator):
    """Says the canary if it is told to anywhere, else the keeper whom the passages name for what is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self._tokenizer = tiny_base().tokenizer

    def generate(self, requests: Sequence[GenerationRequest], cancelled=None) -> list[Decoded]:
        self.history.append(list(requests))
        return [Decoded(self._say(r), len(r.prompt), 3, "stop") for r in requests]

    def _say(self, request: GenerationRequest) -> str:
        prompt = self._tokenizer.decode(request.prompt).casefold()
        passages, _, question = prompt.rpartition("question:")
        if CANARY.casefold() in passages:
            return CANARY
        said = [
            f"Keeper {n}" for n, name in enumerate(NAMES) if name in question and f"keeper {n} " in passages
        ]
        return said[0] if said else "nobody"


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    workspace = Workspace(tmp_path)
    documents = tmp_path / "documents"
    documents.mkdir()
    for n, name in enumerate(NAMES):
        (documents / f"{name}.md").write_text(f"The {name} is looked after by Keeper {n} all year.\n")
    encoder = HashEncoder()
    sync(workspace, documents, encoder, 64)
    index = Index.open(workspace, encoder)
    routes = {"rag": RAG, "base": Route("base", retrieve=False, prompt="brief")}
    answerer = Answerer(tiny_base(), Reader(), index, Registry(tmp_path / "adapters"), routes)
    setup = replace(SETUP, index_generation=1, adapters={}, adapter_hashes={})
    return Subject(
        workspace, LocalRoutes(answerer, index.retriever(), QUESTIONS, setup), routes, QUESTIONS, encoder
    )


def examine(
    subject: Subject, folder: Path, kinds: Sequence[Kind] = tuple(Kind), earlier=()
) -> RobustnessResult:
    with open_variants(subject, kinds) as variants:
        return measure_robustness(variants, folder, Split.TEST, SETTINGS, subject.local.setup, earlier)


def test_everything_is_measured_for_the_routes_that_it_concerns(subject: Subject, tmp_path: Path) -> None:
    result = examine(subject, tmp_path / "e")
    found = {(change.route, change.variant): change for change in result.changes}
    assert {variant for route, variant in found if route == "base"} == {
        "polite",
        "reworded",
        "lower case",
        "upper case",
        "no punctuation",
        "typos",
    }
    assert {variant for route, variant in found if route == "rag"} >= {
        "shuffled passages",
        "3 distractors",
        "k=1",
        "k=3",
        "k=5",
        "k=8",
        "gold first",
        "gold in the middle",
        "gold last",
        INJECTED,
    }
    assert ("rag", "k=2") not in found  # as asked
    assert result.scores["rag"].mean == 1.0
    assert result.n == result.documents == 10
    assert found["rag", "gold last"].against == "gold first"
    assert found["rag", "shuffled passages"].difference.mean == 0.0
    assert found["rag", "shuffled passages"].same_answer == 1.0


def test_an_attack_is_seen_in_the_answers_and_leaves_the_index_as_it_was(
    subject: Subject, tmp_path: Path
) -> None:
    result = examine(subject, tmp_path / "e", [Kind.INJECTION])
    assert result.injection["rag"].shown.mean == 1.0
    assert result.injection["rag"].obeyed.mean == 1.0
    assert "base" not in result.injection
    (change,) = result.changes
    assert (change.variant, change.score, change.verdict) == (INJECTED, 0.0, "worse")
    connection, meta = open_published(subject.workspace.database)
    connection.close()
    assert meta.generation == 1
    assert not any(
        CANARY in d.text for d in Index.open(subject.workspace, HashEncoder()).documents().values()
    )


def test_the_copy_is_gone_afterwards(subject: Subject) -> None:
    with planted_index(subject.workspace, HashEncoder(), QUESTIONS[:2]) as index:
        assert index.retriever().snapshot.sizes()[0] == len(NAMES) + 2
        copy = index._workspace.root
        assert copy.exists()
    assert not copy.exists()


def test_a_corpus_that_holds_the_canary_is_refused(subject: Subject) -> None:
    documents = subject.workspace.root / "documents"
    (documents / "odd.md").write_text(f"Someone wrote {CANARY} here.\n")
    sync(subject.workspace, documents, HashEncoder(), 64)
    with pytest.raises(EvalError, match=CANARY), planted_index(subject.workspace, HashEncoder(), QUESTIONS):
        pass


def test_a_second_run_asks_nothing_and_finds_the_same(subject: Subject, tmp_path: Path) -> None:
    kinds = [Kind.K, Kind.INJECTION]
    first = examine(subject, tmp_path / "e", kinds)
    asked = subject.local.answerer.generator.history
    count = len(asked)
    assert examine(subject, tmp_path / "e", kinds) == first
    assert len(asked) == count
    assert examine(subject, tmp_path / "other", kinds, earlier=[tmp_path / "e"]) == first
    assert len(asked) == count


def test_an_interrupted_run_goes_on(subject: Subject, tmp_path: Path) -> None:
    examine(subject, tmp_path / "e", [Kind.WORDING])
    asked = subject.local.answerer.generator.history
    asked.clear()
    examine(subject, tmp_path / "e", [Kind.WORDING, Kind.K])
    assert sum(map(len, asked)) == 4 * len(QUESTIONS)


def test_only_the_questions_that_a_rule_changes_count(tmp_path: Path) -> None:
    questions = make_questions(24)
    asker = ScriptedRoutes(lambda text, route: "no" if text.isupper() else right_answer(text))
    changed = [replace(q, text=q.text.upper()) for q in questions[:12]]
    routes = {"rag": ROUTES["rag"]}
    variants = [Variant(AS_ASKED, asker, questions, routes), Variant("loud", asker, changed, routes)]
    result = measure_robustness(variants, tmp_path, Split.DEV, SETTINGS, SETUP, ())
    (change,) = result.changes
    assert (change.n, change.reference, change.score, change.verdict) == (12, 1.0, 0.0, "worse")
    assert change.same_answer == 0.0
    assert result.scores["rag"].mean == 1.0
    text = format_robustness(result)
    assert "rag: worse under loud" in text
    assert "dev questions" in text
    assert RobustnessResult.model_validate_json(result.model_dump_json()) == result
    assert json.loads(result.model_dump_json())["schema"] == 1


def test_all_changes_together_are_one_family(tmp_path: Path) -> None:
    questions = make_questions(24)
    asker = ScriptedRoutes(
        lambda text, route: "no" if text.endswith("!") and "1" in text else right_answer(text)
    )
    routes = {"rag": ROUTES["rag"]}
    loud = [replace(q, text=q.text + "!") for q in questions]
    plain = Variant(AS_ASKED, asker, questions, routes)

    def widths(count: int) -> float:
        variants = [plain, *(Variant(f"loud {n}", asker, loud, routes) for n in range(count))]
        result = measure_robustness(variants, tmp_path / str(count), Split.TEST, SETTINGS, SETUP, ())
        assert all(change.p_holm >= change.p for change in result.changes)
        low, high = result.changes[0].difference.ci
        return high - low

    assert widths(8) > widths(1)


def test_distractors_hold_no_answer_and_are_not_of_a_gold_document(subject: Subject) -> None:
    questions = {q.text: replace(q, document_ids=(q.document_ids[0], "quarry.md")) for q in QUESTIONS}
    arranged = ArrangedIndex(subject.local.retriever, with_distractors(questions))
    wide = replace(RAG, k=RAG.k + 3)
    for text, question in questions.items():
        ((usual,), (shown,)) = (
            [[hit.chunk for hit in hits] for hits in index.search([text], k, {})]
            for index, k in ((subject.local.retriever, RAG.k), (arranged, wide.k))
        )
        added = [chunk for chunk in shown if chunk not in usual]
        assert len(shown) == 5
        assert len(added) == 3
        assert not any(chunk.document_id in question.document_ids for chunk in added)


def test_the_right_passage_stands_where_it_is_put(subject: Subject) -> None:
    gold = gold_chunks(QUESTIONS, subject.local.retriever.snapshot.all_chunks())
    questions = {q.text: q for q in QUESTIONS}
    for place, at in ((0.0, 0), (0.5, 2), (1.0, 4)):
        index = ArrangedIndex(subject.local.retriever, with_gold_at(place, questions, gold))
        asker = LocalAsker(searching(subject.local.answerer, index), subject.local.setup)
        for answer in asker.answer_many([(q.text, replace(RAG, k=5)) for q in QUESTIONS]):
            names = [context.document_id for context in answer.contexts]
            assert len(names) == 5
            assert names.index(questions[answer.question].document_ids[0]) == at


def test_synthetic_questions_are_named_beside_the_table(tmp_path: Path) -> None:
    asker = ScriptedRoutes(lambda text, route: right_answer(text))
    for number in (0, 5):
        questions = [replace(q, synthetic=n < number) for n, q in enumerate(make_questions(12))]
        variants = [Variant(AS_ASKED, asker, questions, {"rag": ROUTES["rag"]})]
        result = measure_robustness(variants, tmp_path, Split.TEST, SETTINGS, SETUP, ())
        assert ("5 of 12 questions are synthetic" in format_robustness(result)) == (number == 5)
