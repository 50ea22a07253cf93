"""Questions made from documents, for users who have none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.eval import eval_command
from eval.answers import EvalError
from eval.question_commands import eval_questions
from eval.question_synthesis import Made, make_questions, question_lines, split_documents, whole_sentences
from indexer.config import Workspace
from indexer.corpus import CorpusError, Document, Question, Split
from indexer.readers import read_questions
from indexer.sync import sync
from tests.fakes import HashEncoder
from tests.test_tuner_synthesis import FakeServer
from tuner.config import SynthesisConfig
from tuner.leakage import check_leakage

THINGS = {
    "harbour": "ropes, dredged mud and grey gulls; winch; sleet; anchor",
    "bakery": "ovens, brown flour and warm yeast; kneader; April; sieve",
    "tower": "clocks, narrow stairs and owls; pendulum; fog; lantern",
    "foundry": "furnaces, sand moulds and slag; crucible; January; hammer",
    "library": "shelves, old maps and ladders; lectern; autumn; globe",
    "orchard": "pears, wooden crates and bees; press; harvest; scarecrow",
    "cellar": "barrels, dim lamps and corks; pump; October; tap",
    "chapel": "pews, blue windows and candles; organ; Lent; bell",
    "market": "stalls, loud scales and awnings; balance; summer; fountain",
    "quarry": "cranes, white dust and wedges; drill; March; siren",
}
"""Of each kind of place: what it has, a part of it, a season, and what it was given."""
NAMES = tuple(THINGS)


def document(name: str, text: str = "") -> Document:
    return Document(f"{name}.md", f"The {name}", text or _text(name))


def _text(name: str) -> str:
    n = NAMES.index(name) + 1
    has, part, season, given = THINGS[name].split("; ")
    return (
        f"# The {name}\n\nAny {name} with {has} is inspected by Keeper Lindqvist-{n} in {season}. "
        f"It opens at {n}:40.\n\n"
        f"- The {part} of this {name} is changed after {n}0 hours of {season} duty.\n"
        f"The {name} {given} is a gift from the town of Arlen{n}.\n"
    )


DOCUMENTS = {one.id: one for one in map(document, NAMES)}


def made(documents=DOCUMENTS, count: int = 300, written=()) -> Made:
    return make_questions(documents, count, written)


def test_answers_stand_in_the_evidence_and_not_in_the_question() -> None:
    questions = made().questions
    assert len(questions) > 20
    for question in questions:
        (span,) = question.evidence
        text = DOCUMENTS[span.document_id].text[span.start : span.end]
        assert text.endswith(".")
        assert question.answers[0] in text
        assert question.answers[0] not in question.text


def test_every_question_is_marked_and_survives_writing_and_reading(tmp_path: Path) -> None:
    questions = made().questions
    path = tmp_path / "questions.jsonl"
    path.write_text(question_lines(questions))
    assert read_questions(path, DOCUMENTS) == list(questions)
    assert all(question.synthetic for question in questions)
    path.write_text('{"question": "Who?", "answers": []}\n')
    assert not read_questions(path)[0].synthetic


def test_no_document_is_asked_about_in_two_splits() -> None:
    questions = made().questions
    splits: dict[str, set[Split]] = {}
    for question in questions:
        splits.setdefault(question.document_ids[0], set()).add(question.split)
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == set(Split)
    check_leakage(questions)


@pytest.mark.parametrize(("count", "expected"), [(3, (1, 1, 1)), (10, (5, 2, 3)), (100, (55, 15, 30))])
def test_splits_have_their_share_of_documents(count: int, expected: tuple[int, int, int]) -> None:
    splits = [*split_documents([f"doc {n}" for n in range(count)]).values()]
    assert (splits.count(Split.TRAIN), splits.count(Split.DEV), splits.count(Split.TEST)) == expected


def test_a_fact_that_two_documents_state_is_not_asked() -> None:
    fact = "The mill on the river Arrow was closed by Ada Lindqvist in the year 1904."
    documents = {
        one.id: one
        for one in (
            document("a", f"{fact} Its wheel turns at Fennel Wharf."),
            document("b", f"{fact} The owner of the mill lives near Marlow Bridge today."),
            *map(document, NAMES[:4]),
        )
    }
    found = made(documents)
    assert found.repeated >= 2
    assert not any("river Arrow" in question.text for question in found.questions)


def test_sentences_that_need_their_surroundings_are_left_alone() -> None:
    text = (
        "# A heading of six words about it.\n\nIt was drawn by Ada Lindqvist in 1904.\n\n"
        "| a | table of a few words. |\n"
        "Too short.\n\n1. The lathe of the yard was bought in 1904. These were later sold to Fennel Wharf again.\n"
    )
    (sentence,) = whole_sentences(document("x", text))
    assert sentence.text == "The lathe of the yard was bought in 1904."
    assert text[sentence.evidence.start : sentence.evidence.end] == sentence.text


def test_a_number_is_right_with_and_without_its_unit() -> None:
    hours = [q for q in made().questions if "is changed after" in q.text and q.answers[0][0].isdigit()]
    assert hours
    assert all(q.answers == (f"{q.answers[1]} hours", q.answers[1]) for q in hours)
    text = "The old pumps of the yard were all sold in 1904 because nobody wanted them."
    found = made({**DOCUMENTS, "x.md": document("x", text)}).questions
    assert [q.answers for q in found if q.document_ids == ("x.md",)] == [("1904",)]


def test_few_questions_are_spread_over_the_documents() -> None:
    assert len({q.document_ids for q in made(count=10).questions}) == 10
    assert len(made(count=12).questions) == 12


def test_the_same_documents_give_the_same_questions_in_any_order() -> None:
    again = made(dict(reversed(DOCUMENTS.items())))
    assert {q.id: q for q in again.questions} == {q.id: q for q in made().questions}


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(CorpusError, match="only 2 of 2 documents"):
        made({one.id: one for one in map(document, NAMES[:2])})


def test_a_models_question_gets_evidence_or_is_dropped() -> None:
    written = [
        Question("synthesised~1", "When does the tower open?", ("3:40",), ("tower.md",), Split.TRAIN),
        Question("synthesised~2", "Who built the tower?", ("Nobody Known",), ("tower.md",), Split.TRAIN),
    ]
    found = made(written=written)
    assert found.not_found == 1
    (first,) = [q for q in found.questions if q.id.startswith("synthesised")]
    (span,) = first.evidence
    assert DOCUMENTS["tower.md"].text[span.start : span.end] == "It opens at 3:40."
    assert first.synthetic


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "openbook.toml").write_text("[eval]\nresamples = 1000\n")
    (tmp_path / "documents").mkdir()
    for one in DOCUMENTS.values():
        (tmp_path / "documents" / one.id).write_text(one.text)
    workspace = Workspace(tmp_path)
    sync(workspace, tmp_path / "documents", HashEncoder(), 64)
    return workspace


def test_the_command_writes_what_eval_reads_and_never_overwrites_unasked(workspace: Workspace) -> None:
    def run(*arguments: str) -> dict[str, object]:
        command = ["questions", "-w", str(workspace.root), "--json", *arguments]
        result = CliRunner().invoke(eval_command, command, standalone_mode=False)
        if result.exception:
            raise result.exception
        return dict(json.loads(result.output))

    first = run("--count", "15")
    assert first["questions"] == 15
    assert first["synthetic"] is True
    path = workspace.root / "questions.jsonl"
    before = path.read_bytes()
    with pytest.raises(EvalError, match=r"exists already.*--force"):
        run()
    assert path.read_bytes() == before
    assert run("--force")["questions"] > 15
    assert len(read_questions(path)) > 15


class Writer(FakeServer):
    """Asks one good question about each passage, one whose answer nobody finds again, and one with another answer."""

    def reply(self, system: str, user: str) -> str:
        name = user.partition("Title: The ")[2].split()[0]
        if "quiz questions" in system:
            keeper = f"Keeper Lindqvist-{NAMES.index(name) + 1}"
            return json.dumps(
                [
                    {"question": f"Which official visits any {name}?", "answer": keeper},
                    {"question": f"Who paints the {name}?", "answer": "Ruben"},
                    {"question": f"Who sweeps the {name}?", "answer": "Someone Else"},
                ]
            )
        return (
            "unknown"
            if "paints" in user
            else user.partition("by ")[2]
            if "official" in user
            else "Someone Else"
        )


def test_a_configured_model_writes_questions_that_pass_the_round_trip(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Writer()
    try:
        settings = SynthesisConfig(url=server.url, model="writer", paraphrases=3, statements=2)
        path = workspace.root / "made.jsonl"
        eval_questions(workspace, path, settings, 100, force=False, as_json=False)
        sent = len(server.requests)
        eval_questions(workspace, path, settings, 100, force=True, as_json=False)
        assert len(server.requests) == sent  # kept replies cost nothing
    finally:
        server.server.shutdown()
        server.server.server_close()
    questions = read_questions(path, DOCUMENTS)
    written = [q for q in questions if q.id.startswith("synthesised")]
    assert {q.text for q in written} == {f"Which official visits any {name}?" for name in NAMES}
    assert all(q.synthetic and q.evidence for q in questions)
    assert {q.split for q in written} == set(Split)
    assert "10 whose answer is not in their document" in capsys.readouterr().out
