"""Routes asked before and after documents change, in a copy of the workspace, and again with a retrained adapter."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.changes import Change, questions_of, still_learnable
from eval.freshness import Asked
from eval.scratch import Applied, Edits, Scratch
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Question
from indexer.encoding import Encoder
from indexer.files import write_atomically
from indexer.parsing import Parser
from indexer.progress import progress
from indexer.ranking import load_ranking
from indexer.retriever import Index
from service.answer import Answer
from service.answering import Answerer
from service.assembly import open_generator, solved_examples
from service.routes import Route
from tuner.registry import AdapterVersion, Registry


@dataclass(frozen=True, slots=True)
class Trainer:
    """`train` makes and promotes a version of `adapter` from a workspace's index and a file of questions."""

    adapter: str
    train: Callable[[Workspace, Path], None]


@dataclass(frozen=True, slots=True)
class Tried:
    """Answers around the changes, and the hash of every document after them."""

    before: Asked
    after: Asked
    applied: Applied
    content_hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Retrained:
    """The new adapter, the seconds until it could be asked, and its answers."""

    adapter: AdapterVersion
    seconds: float
    asked: Asked
    questions_left_out: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried, and where."""

    scratch: Scratch
    model: ModelConfig
    settings: IndexConfig
    routes: Mapping[str, Route]
    questions: Sequence[Question]
    changes: Sequence[Change]

    def change(self, edits: Edits, encoder: Encoder, registry: Registry) -> Tried:
        """Ask, change the documents, bring the index up to date, ask again."""
        index = Index.open(self.scratch.workspace, encoder, load_ranking(self.settings))
        with Parser(self.settings.max_file_mb) as parser:
            self.scratch.settle(encoder, self.settings, parser)
            answerer = self._answerer(index, registry, self.routes)
            before = self._ask(answerer, self.routes)
            applied = self.scratch.apply(edits, encoder, self.settings, parser)
        after = self._ask(answerer, self.routes, applied.seconds)
        return Tried(before, after, applied, index.retriever().snapshot.content_hashes())

    def retrain(self, trainer: Trainer, encoder: Encoder, cache: Path, waited: float) -> Retrained:
        """Train on the documents as they are now, and ask the routes that use the adapter.

        The questions of the changes are test questions to it. `cache` is that of the workspace itself: replies of a
        language model that are kept there are not paid for again. `waited` is the seconds since the edit so far.
        """
        copy = self.scratch.workspace
        questions = still_learnable(self.questions, self.changes)
        file = copy.root / "questions.jsonl"
        _write_questions(file, [*questions, *questions_of(self.changes, after=True)])
        if (cache / "synthesis").is_dir():
            shutil.copytree(cache / "synthesis", copy.cache / "synthesis")
        started = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train(copy, file)
        seconds = time.perf_counter() - started
        registry = Registry(copy.adapters)
        adapter = registry.resolve(trainer.adapter)
        routes = {
            name: replace(route, adapter=adapter.key)
            for name, route in self.routes.items()
            if uses(route, trainer.adapter)
        }
        answerer = self._answerer(Index.open(copy, encoder, load_ranking(self.settings)), registry, routes)
        asked = self._ask(answerer, routes, waited + seconds)
        return Retrained(adapter, seconds, asked, len(self.questions) - len(questions))

    def _answerer(self, index: Index, registry: Registry, routes: Mapping[str, Route]) -> Answerer:
        base, generator = open_generator(self.model, registry)
        count = max(route.examples for route in routes.values())
        return Answerer(
            base, generator, index, registry, routes, solved_examples(self.questions, index, count)
        )

    def _ask(self, answerer: Answerer, routes: Mapping[str, Route], waited: float | None = None) -> Asked:
        """One question at a time, as users do, so that each answer has its own time."""
        answers: dict[str, list[Answer]] = {}
        with progress("asking about the changes", len(routes) * len(self.changes)) as advance:
            for name, route in routes.items():
                answers[name] = []
                for change in self.changes:
                    answers[name] += answerer.answer_many([(change.question, route)])
                    advance(1, name)
        return Asked(answers, waited)


def uses(route: Route, adapter: str) -> bool:
    """Whether a route answers with some version of the adapter of that name."""
    return route.adapter is not None and route.adapter.partition("@")[0] == adapter


def _write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Without evidence, whose offsets the changes have moved; training does not need it."""
    lines = [
        {
            "id": f"{number}",
            "question": question.text,
            "answers": question.answers,
            "document_ids": question.document_ids,
            "split": question.split,
        }
        for number, question in enumerate(questions)
    ]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))
