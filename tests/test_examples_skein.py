"""The sample corpus keeps its promises: answers are supported, splits are clean, edits apply."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from indexer.corpus import Split
from indexer.readers import read_documents, read_questions
from tuner.leakage import check_leakage

SKEIN = Path(__file__).parent.parent / "examples" / "skein"
DOCUMENTS = {d.id: d for d in read_documents(SKEIN / "documents")}
QUESTIONS = read_questions(SKEIN / "questions.jsonl", DOCUMENTS)
EDITS = [json.loads(line) for line in (SKEIN / "changes" / "edits.jsonl").read_text().splitlines()]


def test_corpus_is_as_large_and_mixed_as_promised():
    suffixes = Counter(Path(i).suffix for i in DOCUMENTS)
    assert len(DOCUMENTS) >= 40
    assert sum(len(d.text.split()) for d in DOCUMENTS.values()) >= 12_000
    assert suffixes[".md"] > len(DOCUMENTS) / 2
    assert {".md", ".html", ".pdf", ".docx"} <= suffixes.keys()


def test_questions_are_as_many_and_split_as_promised():
    shares = {split: n / len(QUESTIONS) for split, n in Counter(q.split for q in QUESTIONS).items()}
    assert len(QUESTIONS) >= 360
    assert shares[Split.TRAIN] == pytest.approx(0.55, abs=0.02)
    assert shares[Split.DEV] == pytest.approx(0.15, abs=0.02)
    assert shares[Split.TEST] == pytest.approx(0.30, abs=0.02)
    assert sum(not q.answerable for q in QUESTIONS) / len(QUESTIONS) >= 0.12
    assert sum(len(q.document_ids) == 2 for q in QUESTIONS) >= 20
    assert len({q.id for q in QUESTIONS}) == len(QUESTIONS)


def test_every_answer_stands_in_its_evidence():
    for question in QUESTIONS:
        assert set(question.document_ids) <= DOCUMENTS.keys(), question.id
        assert bool(question.evidence) == question.answerable, question.id
        for evidence in question.evidence:
            span = DOCUMENTS[evidence.document_id].text[evidence.start : evidence.end]
            assert evidence.document_id in question.document_ids, question.id
            assert question.answers[0].casefold() in span.casefold(), question.id


def test_no_test_question_is_in_train_or_dev():
    assert check_leakage(QUESTIONS).test > 100


def test_no_question_gives_its_answer_away():
    for question in QUESTIONS:
        words = f" {' '.join(re.findall(r'[a-z0-9]+', question.text.casefold()))} "
        for answer in question.answers:
            plain = " ".join(re.findall(r"[a-z0-9]+", answer.casefold()))
            assert f" {plain} " not in words, question.id


def test_edits_change_their_documents_and_answers():
    assert len(EDITS) >= 15
    for edit in EDITS:
        text = (SKEIN / "documents" / edit["document_id"]).read_text()
        assert text.count(edit["find"]) == 1, edit["id"]
        assert edit["answer_before"] in edit["find"], edit["id"]
        assert edit["answer_after"] in edit["replace"], edit["id"]
        assert edit["answer_after"] not in edit["find"], edit["id"]
        assert edit["question"].endswith("?"), edit["id"]
    assert len({e["document_id"] for e in EDITS}) == len(EDITS)
