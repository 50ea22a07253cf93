"""BEIR folders, written and read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from indexer.beir import read_beir_questions, write_beir
from indexer.corpus import CorpusError, Document, Question, Split

QUESTIONS = [
    Question("1", "Where is the bell?", ("here",), ("bell", "tower"), Split.DEV),
    Question("2", "Where is the cup?", ("there",), ("cup",), Split.TEST),
    Question("3", "Why?", (), (), Split.TEST),
]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert write_beir(tmp_path, [Document("bell", "Bell", "It rings.")], QUESTIONS) == 2
    line = json.loads((tmp_path / "corpus.jsonl").read_text())
    assert line == {"_id": "bell", "title": "Bell", "text": "It rings."}
    assert (tmp_path / "qrels" / "test.tsv").read_text() == "query-id\tcorpus-id\tscore\n2\tcup\t1\n"
    found = [(q.id, q.text, q.document_ids, q.split, q.answerable) for q in read_beir_questions(tmp_path)]
    assert found == [(q.id, q.text, q.document_ids, q.split, True) for q in QUESTIONS[:2]]


def test_documents_judged_irrelevant_are_no_gold(tmp_path: Path) -> None:
    write_beir(tmp_path, [], QUESTIONS)
    with (tmp_path / "qrels" / "dev.tsv").open("a") as file:
        file.write("1\tcup\t0\n")
    assert read_beir_questions(tmp_path)[0].document_ids == ("bell", "tower")


def test_broken_judgements_name_their_line(tmp_path: Path) -> None:
    write_beir(tmp_path, [], QUESTIONS)
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n1\tbell\n")
    with pytest.raises(CorpusError, match=r"dev.tsv, line 2: expected query id"):
        read_beir_questions(tmp_path)


def test_folder_that_is_not_beir_names_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="a BEIR folder has"):
        read_beir_questions(tmp_path)
