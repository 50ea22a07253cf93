"""`openbook eval questions`: a file of questions made from the indexed documents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from math import ceil
from pathlib import Path

import click

from eval.answers import EvalError
from eval.question_synthesis import Made, count_origins, make_questions, question_lines
from indexer.config import Workspace
from indexer.corpus import Question, Split
from indexer.files import hash_text, write_atomically
from indexer.snapshot import Chunk, Snapshot
from tuner.config import SynthesisConfig
from tuner.endpoint import Endpoint
from tuner.examples import Passage
from tuner.synthesis import Synthesised, synthesise

_SPARE = 2
"""How many times as many questions a language model is asked for as are wanted: many do not pass the checks."""


def eval_questions(
    workspace: Workspace,
    output: Path,
    endpoint: SynthesisConfig | None,
    count: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write at most `count` synthetic questions to `output` and print how they came about.

    With an `endpoint`, a language model writes questions besides. Raises EvalError if the file exists, CorpusError,
    IndexMissing, SynthesisError.
    """
    if output.exists() and not force:
        raise EvalError(
            f"{output} exists already; name another file with --output, or overwrite it with --force"
        )
    with closing(Snapshot(workspace.database)) as snapshot:
        documents, chunks = snapshot.documents(), snapshot.all_chunks()
    written = None
    if endpoint is not None:
        written = _written(endpoint, chunks, count, workspace.cache / "synthesis")
    made = make_questions(documents, count, written.questions if written else ())
    write_atomically(output, question_lines(made.questions))
    click.echo(json.dumps(_summary(output, made), indent=2) if as_json else _format(output, made, written))


def _written(settings: SynthesisConfig, chunks: Sequence[Chunk], count: int, cache: Path) -> Synthesised:
    """New questions about as many chunks as it may take, which the model could answer again from the chunk."""
    only_questions = settings.model_copy(
        update={"paraphrases": 0, "statements": 0, "questions": max(settings.questions, 1)}
    )
    asked = _spread(chunks)[: ceil(_SPARE * count / only_questions.questions)]
    passages = [Passage(chunk.document_id, chunk.title, chunk.text, chunk.heading) for chunk in asked]
    with closing(Endpoint(only_questions, cache)) as endpoint:
        return synthesise(endpoint, only_questions, passages, (), ())


def _spread(chunks: Sequence[Chunk]) -> list[Chunk]:
    """One chunk of every document, then another of each, and so on; which, is drawn."""
    taken: Counter[str] = Counter()
    ranked: list[tuple[int, str, Chunk]] = []
    for chunk in sorted(chunks, key=_drawn):
        ranked.append((taken[chunk.document_id], _drawn(chunk), chunk))
        taken[chunk.document_id] += 1
    return [chunk for _, _, chunk in sorted(ranked, key=lambda one: one[:2])]


def _drawn(chunk: Chunk) -> str:
    return hash_text(chunk.document_id, str(chunk.start))


def _summary(output: Path, made: Made) -> dict[str, object]:
    return {
        "file": str(output),
        "questions": len(made.questions),
        "synthetic": True,
        "splits": {split: _count(made.questions, split) for split in Split},
        "documents": len({question.document_ids for question in made.questions}),
        "origins": count_origins(made.questions),
        "dropped": {"repeated": made.repeated, "answer_not_in_document": made.not_found},
    }


def _format(output: Path, made: Made, written: Synthesised | None) -> str:
    splits = ", ".join(f"{_count(made.questions, split)} {split}" for split in Split)
    origins = ", ".join(f"{count} {origin}" for origin, count in count_origins(made.questions).items())
    lines = [
        f"{output}: {len(made.questions)} synthetic questions ({splits}; {origins})",
        f"dropped: {made.repeated} that repeat another question or what several documents say, {made.not_found} whose "
        "answer is not in their document",
        *([written.describe()] if written else []),
        "They are easier than what people ask, and all have an answer: read a sample, and replace them when you can.",
    ]
    return "\n".join(lines)


def _count(questions: Sequence[Question], split: Split) -> int:
    return sum(question.split is split for question in questions)
