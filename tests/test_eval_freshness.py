"""Document changes tried on a copy of the workspace: what routes say then, how soon, and what it costs."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.eval import eval_command
from eval import freshness_commands
from eval.answers import EvalError
from eval.changes import Change, learned_ids, read_changes, still_learnable
from eval.config import EvalConfig, Prices
from eval.freshness import (
    Asked,
    FreshnessResult,
    adapter_freshness,
    route_freshness,
    says,
    sync_cost,
)
from eval.freshness_commands import eval_freshness
from eval.scratch import Applied, Scratch, scratch_copy
from eval.trial import Trainer
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Document, Question, Split
from indexer.database import IndexMissing
from indexer.documents import put_document
from indexer.parsing import Parser
from indexer.readers import read_questions
from indexer.snapshot import Snapshot
from indexer.sync import sync
from service.routes import Route
from settings import ConfigError
from tests.fakes import HashEncoder
from tests.fakes_eval import ROUTES, make_answer
from tests.tiny import tiny_adapter, tiny_base
from tuner.base_model import load_base

CHUNK_TOKENS = 32
SETTINGS = EvalConfig(resamples=1000)
INDEX = IndexConfig(chunk_tokens=CHUNK_TOKENS)
LINE = {
    "id": "c1",
    "document_id": "bell.md",
    "find": "at noon",
    "replace": "at dawn",
    "question": "When does the bell ring?",
    "answer_before": "noon",
    "answer_after": "dawn",
}


def change(**other: str) -> Change:
    return Change(**{**LINE, **other}, place="changes.jsonl, line 1")


def write_changes(path: Path, *lines: dict[str, str] | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Text files, a file of JSON lines and a document that was put, all indexed."""
    documents = tmp_path / "documents"
    (documents / "garden").mkdir(parents=True)
    (documents / "bell.md").write_text(
        "# Bell\n\nThe bell rings at noon.\n\n# Rope\n\nIts rope is of hemp.\n"
    )
    (documents / "garden" / "oak.txt").write_text("The oak is old. The oak is tall.\n")
    rows = [{"id": 1, "text": "Ferns want shade."}, {"id": 2, "text": "Moss wants rain."}]
    (documents / "plants.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace = Workspace(tmp_path)
    sync(workspace, documents, HashEncoder(), CHUNK_TOKENS)
    put_document(workspace, Document("note", "Note", "Lea keeps the key."), HashEncoder(), CHUNK_TOKENS)
    return workspace


def texts(workspace: Workspace) -> dict[str, str]:
    with closing(Snapshot(workspace.database)) as snapshot:
        return {name: document.text for name, document in snapshot.documents().items()}


def files(folder: Path) -> dict[Path, bytes]:
    """Of all files but those that SQLite makes for readers."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def apply(scratch: Scratch, *changes: Change, encoder: HashEncoder | None = None) -> Applied:
    encoder = encoder or HashEncoder()
    with Parser(1) as parser:
        scratch.settle(encoder, INDEX, parser)
        return scratch.apply(scratch.edits(changes), encoder, INDEX, parser)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 2: not JSON"),
        ({**LINE, "id": "c1"}, "line 2: id 'c1' stands in .*line 1 too"),
        ({"id": "c2"}, "line 2: document_id: Field required; expected"),
        ({**LINE, "id": "c2", "find": ""}, "line 2: find: "),
        ({**LINE, "id": "c2", "replace": "at noon"}, "line 2: `find` and `replace` are the same"),
        ({**LINE, "id": "c2", "answer_after": "The noon."}, "line 2: both answers are 'The noon.'"),
        ({**LINE, "id": "c2", "answer_before": "..."}, "line 2: answer_before holds no words"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: dict[str, str] | str, said: str) -> None:
    with pytest.raises(EvalError, match=said):
        read_changes(write_changes(tmp_path / "changes.jsonl", LINE, line))


def test_a_file_without_changes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="holds no changes; expected"):
        read_changes(write_changes(tmp_path / "changes.jsonl", ""))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([change(document_id="../bell.md")], r"line 1: no document '../bell.md' is indexed"),
        ([change(find="at night")], "line 1: 'bell.md' does not hold the text to find"),
        ([change(document_id="garden/oak.txt", find="The oak")], "holds the text to find 2 times"),
        ([change(document_id="note", find="Lea drops")], "line 1: 'note' does not hold"),
        ([change(), change()], "line 1: 'bell.md' does not hold"),
    ],
)
def test_a_change_that_fits_no_document_is_named(
    workspace: Workspace, changes: list[Change], said: str
) -> None:
    with (
        scratch_copy(workspace, workspace.root / "documents") as scratch,
        pytest.raises(EvalError, match=said),
    ):
        scratch.edits(changes)


def test_documents_that_are_no_text_or_gone_cannot_be_changed(workspace: Workspace) -> None:
    documents = workspace.root / "documents"
    (documents / "bell.md").write_bytes(b"\xff\xfe at noon")
    (documents / "garden" / "oak.txt").unlink()
    with scratch_copy(workspace, documents) as scratch:
        with pytest.raises(EvalError, match=r"line 1: 'bell.md' is no text file"):
            scratch.edits([change()])
        with pytest.raises(EvalError, match=r"line 1: the file of 'garden/oak.txt' is gone"):
            scratch.edits([change(document_id="garden/oak.txt")])


def test_changes_reach_the_copy_and_never_the_workspace(workspace: Workspace) -> None:
    before = files(workspace.root)
    changes = [
        change(),
        change(find="hemp", replace="silk"),
        change(document_id="plants.jsonl#2", find="rain", replace="sun"),
        change(document_id="note", find="Lea", replace="Ada"),
    ]
    with scratch_copy(workspace, workspace.root / "documents") as scratch:
        applied = apply(scratch, *changes)
        after = texts(scratch.workspace)
    assert applied.documents == 3
    assert "rings at dawn" in after["bell.md"]
    assert "of silk" in after["bell.md"]
    assert after["plants.jsonl#1"] == "Ferns want shade."
    assert after["plants.jsonl#2"] == "Moss wants sun."
    assert after["note"] == "Ada keeps the key."
    assert files(workspace.root) == before
    assert not scratch.workspace.root.exists()


def test_only_what_the_changes_made_is_embedded_and_counted(workspace: Workspace) -> None:
    documents = workspace.root / "documents"
    (documents / "new.md").write_text("# New\n\nNot indexed yet.\n")
    encoder = HashEncoder()
    with scratch_copy(workspace, documents) as scratch:
        applied = apply(scratch, change(), encoder=encoder)
    assert encoder.encoded == ["New\nNot indexed yet.", "Bell\nThe bell rings at dawn."]
    assert applied.chunks_embedded == 1
    assert applied.tokens_embedded == encoder.count_tokens(encoder.encoded[-1])
    assert applied.seconds > 0


def test_one_file_of_json_lines_can_be_the_documents(tmp_path: Path) -> None:
    documents = tmp_path / "all.jsonl"
    documents.write_text(
        '{"_id": "a", "text": "rings at noon"}\nbroken\n{"id": "b", "text": "rings at noon"}'
    )
    workspace = Workspace(tmp_path)
    sync(workspace, documents, HashEncoder(), CHUNK_TOKENS)
    with scratch_copy(workspace, documents) as scratch:
        apply(scratch, change(document_id="a"))
        assert texts(scratch.workspace) == {"a": "rings at dawn", "b": "rings at noon"}


def test_documents_put_through_the_api_need_no_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    put_document(workspace, Document("note", "Note", "The bell rings at noon."), HashEncoder(), CHUNK_TOKENS)
    with scratch_copy(workspace, tmp_path / "documents") as scratch:
        assert apply(scratch, change(document_id="note")).chunks_embedded == 1
        assert texts(scratch.workspace) == {"note": "The bell rings at dawn."}


def test_a_document_that_the_changes_break_is_named(workspace: Workspace) -> None:
    emptied = change(document_id="garden/oak.txt", find="The oak is old. The oak is tall.\n", replace=" ")
    with (
        scratch_copy(workspace, workspace.root / "documents") as scratch,
        pytest.raises(EvalError, match=r"'garden/oak.txt' cannot be read after the changes: holds no text"),
    ):
        apply(scratch, emptied)


@pytest.mark.parametrize(
    ("answer", "wanted", "other", "held"),
    [
        ("It rings at dawn.", "dawn", "noon", True),
        ("It rings at dawning.", "dawn", "noon", False),
        ("1,860", "1,860 marks", "2,145 marks", True),
        ("marks", "1,860 marks", "2,145 marks", False),
        ("Gwil", "Gwil Matheson", "Tamsin Ferrier", False),
        ("6 or 7 days", "6 or 7 days", "7 days", True),
        ("6 or 7 days", "7 days", "6 or 7 days", False),
        ("7 days", "7 days", "6 or 7 days", True),
    ],
)
def test_an_answer_holds_a_fact_by_the_words_that_tell_it_from_the_other(
    answer: str, wanted: str, other: str, held: bool
) -> None:
    assert says(answer, wanted, other) is held


CHANGES = [
    change(
        id=f"c{n}", document_id=f"{n}.md", question=f"{n}?", answer_before=f"old{n}", answer_after=f"new{n}"
    )
    for n in range(10)
]


def asked(route: Route, words: str, waited: float | None = None, milliseconds: float = 10.0) -> Asked:
    """Route `route` answers change n by the nth of `words` and n."""
    answers = [
        make_answer(f"{n}?", route, f"{word}{n}", milliseconds=milliseconds)
        for n, word in enumerate(words.split())
    ]
    return Asked({route.name: answers}, waited)


@pytest.mark.parametrize(
    ("route", "before", "after", "state", "kept"),
    [
        ("rag", "old old old old old no no no no no", "new new new new no no no no no no", "fresh", 0.8),
        ("rag", "old old old old old no no no no no", "new new new old no no no no no no", "partly", 0.6),
        ("rag", "old old no no no no no no no no", "old old no no no no no no no no", "stale", 0.0),
        ("tuned", "no no no no no no no no no no", "no no no no no no no no no no", "stale", None),
        ("base", "no no no no no no no no no no", "no no no no no no no no no no", "unaffected", None),
    ],
)
def test_a_route_is_judged_by_the_share_of_right_answers_it_keeps(
    route: str, before: str, after: str, state: str, kept: float | None
) -> None:
    one = ROUTES[route]
    found = route_freshness({route: one}, CHANGES, asked(one, before), asked(one, after, 2.0), None, SETTINGS)
    assert found[route].state == state
    assert found[route].kept == (None if kept is None else pytest.approx(kept))
    assert found[route].change.mean == pytest.approx((after.count("new") - before.count("old")) / 10)
    assert found[route].before.seconds is None
    same = sum(a == b for a, b in zip(before.split(), after.split(), strict=True))
    assert found[route].unchanged == pytest.approx(same / 10)


def test_time_until_right_counts_from_the_edit() -> None:
    rag = ROUTES["rag"]
    before, after = (
        asked(rag, "old " * 10),
        asked(rag, "new " * 9 + "old", waited=2.0, milliseconds=500.0),
    )
    retrained = asked(rag, "new " * 10, waited=60.0, milliseconds=500.0)
    found = route_freshness({"rag": rag}, CHANGES, before, after, retrained, SETTINGS)["rag"]
    assert found.before.old.mean == found.before.score.mean == 1.0
    assert found.after.new.mean == found.after.score.mean == pytest.approx(0.9)
    assert found.after.old.mean == pytest.approx(0.1)
    assert found.after.seconds is not None
    assert (found.after.seconds.n, found.after.seconds.longest) == (9, 2.5)
    assert found.retrained is not None
    assert found.retrained.seconds is not None
    assert found.retrained.seconds.median == 60.5


def test_costs_are_seconds_times_prices(tmp_path: Path) -> None:
    prices = Prices(machine_hour=3.6, training_hour=7.2)
    assert sync_cost(Applied(2.0, 3, 4, 500), prices).cost == pytest.approx(0.002)
    adapter = tiny_adapter(tmp_path, tiny_base())
    unknown = adapter_freshness(adapter, ["tuned"], None, prices)
    assert (unknown.training_seconds, unknown.training_cost) == (None, None)
    trained = replace(adapter, manifest=adapter.manifest.model_copy(update={"seconds": 10.0, "tokens": 900}))
    known = adapter_freshness(trained, ["tuned"], 3, prices)
    assert (known.training_seconds, known.training_tokens, known.changed_documents) == (10.0, 900, 3)
    assert known.training_cost == pytest.approx(0.02)


def question(text: str, answer: str, split: Split, document: str = "bell.md") -> Question:
    return Question(text, text, (answer,), (document,), split)


def test_what_the_changes_bear_on_is_not_learned_again() -> None:
    kept = [
        question("What is the rope of?", "hemp", Split.TRAIN),
        question("When is lunch in the far kitchen?", "noon", Split.TRAIN, "oak.md"),
        question("At what hour do we hear it?", "noon", Split.TEST),
    ]
    gone = [
        question("At what hour do we hear it?", "at noon", Split.TRAIN),
        question("When does the bell ring", "midday", Split.DEV),
    ]
    found = still_learnable([*kept, *gone], [change()])
    assert [q for q in found if q.split is not Split.TEST] == kept[:2]
    assert learned_ids([change()], [*kept, *gone]) == {"c1"}
    assert learned_ids([change()], kept) == frozenset()


@pytest.fixture
def trial(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace with questions, a tiny base model and an adapter."""
    monkeypatch.setattr(freshness_commands, "load_encoder", lambda ref: HashEncoder())
    lines = [
        {
            "question": "What is the rope of?",
            "answers": ["hemp"],
            "document_ids": ["bell.md"],
            "split": "train",
        },
        {
            "question": "What hour is it heard?",
            "answers": ["noon"],
            "document_ids": ["bell.md"],
            "split": "dev",
        },
    ]
    write_changes(workspace.root / "questions.jsonl", *lines)
    base = tiny_base()
    base.model.save_pretrained(workspace.root / "tiny")
    base.tokenizer.save_pretrained(workspace.root / "tiny")
    tiny_adapter(workspace.adapters, load_base(str(workspace.root / "tiny"), "float32"))
    write_changes(workspace.root / "changes.jsonl", LINE)
    return workspace


def run(workspace: Workspace, *names: str, trainer: Trainer | None = None, as_json: bool = True) -> None:
    model = ModelConfig(base=str(workspace.root / "tiny"), dtype="float32")
    routes = {name: replace(ROUTES[name], max_new_tokens=4, k=1) for name in names}
    eval_freshness(
        workspace, model, INDEX, SETTINGS, routes, workspace.root / "changes.jsonl", trainer, as_json
    )


def test_a_trial_is_printed_and_kept(trial: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run(trial, "rag", "tuned")
    printed = capsys.readouterr()
    found = FreshnessResult.model_validate_json(printed.out)
    assert found.sync.documents == found.sync.chunks_embedded == 1
    assert found.routes["tuned"].state == "stale"
    assert found.routes["tuned"].unchanged == 1.0
    assert found.adapters["mixed@1"].routes == ["tuned"]
    assert found.changes[0].before.keys() == found.changes[0].after.keys() == {"rag", "tuned"}
    (folder,) = trial.evaluations.iterdir()
    assert json.loads((folder / "freshness.json").read_text()) == json.loads(printed.out)
    assert "| tuned |" in (folder / "freshness.md").read_text()


def test_an_adapter_is_trained_again_without_the_old_facts_and_asked(
    trial: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    learned: list[Question] = []

    def train(copy: Workspace, questions: Path) -> None:
        assert copy.root != trial.root
        assert "at dawn" in texts(copy)["bell.md"]
        learned.extend(read_questions(questions))
        print("training")
        tiny_adapter(copy.adapters, load_base(str(trial.root / "tiny"), "float32"), seed=7)

    run(trial, "rag", "tuned", trainer=Trainer("mixed", train))
    found = FreshnessResult.model_validate_json(capsys.readouterr().out)
    assert [q.text for q in learned if q.split is not Split.TEST] == ["What is the rope of?"]
    assert [q.text for q in learned if q.split is Split.TEST] == [LINE["question"]]
    assert found.retraining is not None
    assert found.retraining.questions_left_out == 1
    assert found.routes["tuned"].retrained is not None
    assert found.routes["rag"].retrained is None
    assert found.changes[0].retrained.keys() == {"tuned"}


def test_training_that_no_route_would_use_is_refused(trial: Workspace) -> None:
    with pytest.raises(EvalError, match="adapter 'other', which none of the routes tuned uses"):
        run(trial, "tuned", trainer=Trainer("other", lambda copy, questions: None))


def test_without_an_index_there_is_nothing_to_try(trial: Workspace) -> None:
    trial.database.unlink()
    with pytest.raises(IndexMissing, match="run `openbook index`"):
        run(trial, "base")


def test_the_command_names_unknown_routes_and_bad_files(tmp_path: Path) -> None:
    (tmp_path / "openbook.toml").write_text("")
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": "Who?", "answers": ["I"]}) + "\n")
    changes = write_changes(tmp_path / "changes.jsonl", "nonsense")

    def typed(*arguments: str) -> BaseException | None:
        arguments = ("freshness", str(changes), "-w", str(tmp_path), *arguments)
        return CliRunner().invoke(eval_command, list(arguments), standalone_mode=False).exception

    with pytest.raises(ConfigError, match="--route wide: unknown route; known: base, rag"):
        raise typed("--route", "wide") or AssertionError
    with pytest.raises(EvalError, match="line 1: not JSON"):
        raise typed("--route", "base") or AssertionError
