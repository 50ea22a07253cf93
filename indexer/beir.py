"""Documents and questions in the layout of BEIR: `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from indexer.corpus import CorpusError, Document, Question, Split
from indexer.files import write_atomically
from indexer.lines import Text, parse_line, read_lines


def write_beir(folder: Path, documents: Iterable[Document], questions: Sequence[Question]) -> int:
    """Write the documents, and the questions that name some; returns how many questions that were.

    BEIR knows no answers and no evidence: what is relevant is the document.
    """
    named = [question for question in questions if question.document_ids]
    _write_lines(
        folder / "corpus.jsonl", ({"_id": d.id, "title": d.title, "text": d.text} for d in documents)
    )
    _write_lines(folder / "queries.jsonl", ({"_id": q.id, "text": q.text} for q in named))
    for split in Split:
        rows = [(q.id, name, 1) for q in named if q.split is split for name in q.document_ids]
        if rows:
            table = io.StringIO()
            writer = csv.writer(table, delimiter="\t", lineterminator="\n")
            writer.writerows([("query-id", "corpus-id", "score"), *rows])
            write_atomically(folder / "qrels" / f"{split}.tsv", table.getvalue())
    return len(named)


def read_beir_questions(folder: Path) -> list[Question]:
    """The queries with their relevant documents; one that is judged in several splits belongs to the first.

    They have no answers, so only retrieval can be scored on them; each counts as answerable, with an empty answer.
    """
    texts = {line.id: line.text for line in _queries(folder / "queries.jsonl")}
    relevant: dict[str, tuple[Split, list[str]]] = {}
    for split in Split:
        path = folder / "qrels" / f"{split}.tsv"
        if path.is_file():
            for query, document in _judged(path):
                relevant.setdefault(query, (split, []))[1].append(document)
    if not relevant:
        raise CorpusError(f"{folder / 'qrels'}: no train.tsv, dev.tsv or test.tsv with a relevant document")
    return [
        Question(query, texts[query], ("",), tuple(dict.fromkeys(names)), split)
        for query, (split, names) in relevant.items()
        if query in texts
    ]


class _Query(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: Text = Field(alias="_id", min_length=1)
    text: Text = Field(min_length=1)


def _queries(path: Path) -> list[_Query]:
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/")
    found = []
    for raw in read_lines(path):
        try:
            found.append(parse_line(raw, _Query))
        except CorpusError as error:
            raise CorpusError(f"{path}, line {raw.number}: {error}") from error
    return found


def _judged(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]  # after the header
    found = []
    for number, row in enumerate(rows, start=2):
        if len(row) != 3 or not row[2].lstrip("-").isdigit():
            raise CorpusError(f"{path}, line {number}: expected query id, document id and a whole number")
        if int(row[2]) > 0:
            found.append((row[0], row[1]))
    return found


def _write_lines(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
