"""Documents and questions from disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from indexer.corpus import CorpusError, Document, Evidence, Split
from indexer.readers import read_documents, read_questions
from indexer.splits import assign_splits, near_duplicate_groups


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_folder_is_read_recursively_in_order_without_hidden_and_unsupported_files(tmp_path: Path) -> None:
    for name in ("b.md", "a/deep.txt", ".hidden.md", ".git/c.md", "photo.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("Some text.")
    assert [document.id for document in read_documents(tmp_path)] == ["a/deep.txt", "b.md"]


def test_jsonl_documents_keep_their_ids_and_default_their_title(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "d.jsonl",
        {"id": "x", "title": "X ray", "text": "One."},
        {"id": 7, "text": "Two.", "more": 1},
    )
    assert read_documents(path) == [Document("7", "7", "Two."), Document("x", "X ray", "One.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no documents"),
        ('{"id": "a", "text": "t"}\n{"id": "b"', "line 2: not JSON"),
        ('{"id": "a", "text": "t"}\n\n{"id": "a", "text": "u"}', "line 3: id 'a' is already in line 1"),
        ('{"id": "a"}', "line 1: text: Field required"),
        ('{"id": "a", "text": "  "}', "line 1: text"),
        ('{"id": "a", "text": "b\\u0000"}', "line 1: text: .*NUL"),
        ('{"id": "a", "text": "\\ud800"}', "line 1: not JSON .*escape"),
        ('{"id": "a", "title": "' + "t" * 1001 + '", "text": "t"}', "line 1: title: .*at most 1000"),
        ("[1]", "line 1"),
    ],
)
def test_bad_document_lines_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(content)
    with pytest.raises(CorpusError, match=message):
        read_documents(path)


def test_missing_and_empty_corpora_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        read_documents(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"holds no documents; expected files ending in .*\.pdf"):
        read_documents(tmp_path)


def test_questions_are_read_with_defaults_and_unknown_keys_ignored(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "q.jsonl",
        {"question": " Which? ", "answers": ["this"], "document_ids": ["d"], "split": "dev", "kind": "one"},
        {"question": "What?", "answers": [], "id": "mine"},
    )
    which, what = read_questions(path)
    assert (which.text, which.answers, which.document_ids, which.split) == (
        "Which?",
        ("this",),
        ("d",),
        Split.DEV,
    )
    assert len(which.id) == 16
    assert (what.id, what.answerable) == ("mine", False)


def test_question_without_answers_key_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "q.jsonl", {"question": "A?", "answers": []}, {"question": "B?"})
    with pytest.raises(CorpusError, match=r"line 2: no `answers`; add .* or \[\] if"):
        read_questions(path)


def test_blank_answer_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "q.jsonl", {"question": "A?", "answers": ["x", " "]})
    with pytest.raises(CorpusError, match=r"line 1: an answer is blank; leave it out"):
        read_questions(path)


def test_repeated_question_is_refused(tmp_path: Path) -> None:
    line = {"question": "A?", "answers": ["x"]}
    with pytest.raises(CorpusError, match=r"line 2: question .* is already in line 1"):
        read_questions(write_lines(tmp_path / "q.jsonl", line, line))


def test_section_ids_become_the_evidence_of_that_paragraph(tmp_path: Path) -> None:
    documents = {"d": Document("d", "D", "# D\n\nFirst\nlines.\n\n \n\nSecond.\n")}
    path = write_lines(
        tmp_path / "q.jsonl", {"question": "A?", "answers": ["x"], "section_ids": ["d#p1", "d#p2"]}
    )
    (question,) = read_questions(path, documents)
    assert [documents["d"].text[e.start : e.end] for e in question.evidence] == ["First\nlines.", "Second."]
    assert question.document_ids == ("d",)


def test_evidence_of_a_section_is_the_sentence_that_answers_the_question(tmp_path: Path) -> None:
    first, second = (
        "The gate was built of oak in 1912 by two brothers.",
        "The tower has stood there since 1912.",
    )
    documents = {
        "d": Document(
            "d",
            "D",
            f"No part of it: 1912.\n\n{first} {second} It is closed in winter, as the north wind blows.",
        )
    }
    asked = {"answers": ["1912"], "section_ids": ["d#p1"]}
    path = write_lines(
        tmp_path / "q.jsonl",
        {"question": "Since when has the tower stood?", **asked},
        {"question": "When was the gate built?", **asked},
        {"question": "Is it open?", "answers": ["no"], "section_ids": ["d#p1"]},
    )
    spans = [
        documents["d"].text[e.start : e.end] for q in read_questions(path, documents) for e in q.evidence
    ]
    assert spans == [second, first, f"{first} {second} It is closed in winter, as the north wind blows."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"section_ids": ["d#p9"]}, "has 1 paragraphs, so there is no #p9"),
        ({"section_ids": ["d"]}, "not of the form"),
        ({"evidence": [{"document_id": "d", "start": 3, "end": 99}]}, "evidence 3:99"),
        ({"evidence": [{"document_id": "d", "start": 3, "end": 3}]}, "evidence 3:3"),
        ({"split": "exam"}, "split"),
        ({"answers": "x"}, "answers"),
    ],
)
def test_bad_question_lines_are_named(tmp_path: Path, line: dict[str, object], message: str) -> None:
    path = write_lines(tmp_path / "q.jsonl", {"question": "A?", "answers": ["x"], **line})
    with pytest.raises(CorpusError, match=f"line 1: .*{message}"):
        read_questions(path, {"d": Document("d", "D", "Text.")})


def test_given_evidence_is_kept(tmp_path: Path) -> None:
    evidence = [{"document_id": "d", "start": 0, "end": 4}]
    path = write_lines(tmp_path / "q.jsonl", {"question": "A?", "answers": ["Text"], "evidence": evidence})
    assert read_questions(path)[0].evidence == (Evidence("d", 0, 4),)


def test_questions_about_a_document_that_has_gone_can_still_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines(tmp_path / "q.jsonl", {"question": "A?", "answers": ["x"], "document_ids": ["gone"]})
    assert read_questions(path, {})[0].document_ids == ("gone",)
    assert "1 documents named by questions are not in the corpus, among them '" in caplog.text


NOUNS = [f"{a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst"]


def test_splits_are_about_55_15_30_and_independent_of_order() -> None:
    texts = [f"Where is the {noun}?" for noun in NOUNS]
    # Each pair differs in one of four words: Jaccard 0.6, so none is a near-duplicate.
    splits = dict(zip(texts, assign_splits(texts, [None] * len(texts)), strict=True))
    assert splits == dict(zip(texts[::-1], assign_splits(texts[::-1], [None] * len(texts)), strict=True))
    counts = [list(splits.values()).count(split) / len(texts) for split in Split]
    assert counts == pytest.approx([0.55, 0.15, 0.30], abs=0.06)


def test_near_duplicates_share_a_split_and_follow_a_given_one() -> None:
    texts = [
        variant
        for noun in NOUNS[:40]
        for variant in (f"Where now is the {noun}?", f"where is the {noun} now")
    ]
    splits = assign_splits(texts, [None] * len(texts))
    assert splits[0::2] == splits[1::2]
    assert assign_splits(texts[:2], [None, Split.TEST]) == [Split.TEST, Split.TEST]
    assert assign_splits(texts[:2], [Split.DEV, Split.TEST]) == [Split.DEV, Split.TEST]


def test_near_duplicate_groups_equal_those_of_all_pairs() -> None:
    texts = [
        "a b c d e",
        "e d c b a f",
        "a b c d",
        "x y",
        "y x",
        "x",
        "",
        "?",
        "a b c d e f g h i j",
        "b c d e f g h i j",
    ]
    sets = [set(text.split()) for text in texts]
    pairs = {
        (i, j)
        for i in range(len(texts))
        for j in range(i)
        if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j]) and sets[i] - {"?"}
    }
    groups = near_duplicate_groups(texts)
    assert sorted(map(sorted, groups)) == [[0, 1, 2], [3, 4], [5], [6], [7], [8, 9]]
    assert all(any({i, j} <= set(group) for group in groups) for i, j in pairs)
