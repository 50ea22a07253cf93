"""Recipes: which training rows are made from the corpus and the train questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

from indexer.corpus import Question, Split
from tuner.augment import Cloze, PatternQuestion, make_clozes, make_pattern_questions, shuffle_sentences
from tuner.config import TuneConfig
from tuner.leakage import without_leaks
from tuner.prompt import ABSTENTION, Context, build_prompt, without_control_tokens

_MOST_REPLAY_TOKENS = 256
_DISTRACTORS = 4


class RowKind(StrEnum):
    """What a training row teaches."""

    DOCUMENT = "document"
    SECTION = "section"
    CLOZE = "cloze"
    PATTERN = "pattern"
    CLOSED_BOOK = "closed-book"
    REFRESHER = "refresher"
    OPEN_BOOK = "open-book"
    ABSTENTION = "abstention"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids; the loss is taken on `completion` only."""

    kind: RowKind
    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved passage as the recipes see it."""

    document_id: str
    title: str
    text: str
    heading: str = ""


class Search(Protocol):
    """The actual retriever: for each question the best `k` passages, best first."""

    def __call__(self, questions: Sequence[str], k: int) -> list[list[Passage]]:
        """Passages by question, in the order of the questions."""


class RowBuilder:
    """Builds the rows of one pass over the data; every pass draws other renderings, distractors and orders."""

    def __init__(
        self,
        tokenizer: Any,
        passages: Sequence[Passage],
        questions: Sequence[Question],
        search: Search,
        settings: TuneConfig,
        statements: Sequence[Passage] = (),
        test: Sequence[Question] = (),
    ) -> None:
        """`passages` are all chunks of the index, `questions` those of the train split only.

        `statements` say the same in other words: they are read like chunks, but never shown in a prompt. Questions
        made by rule that come near one of `test` are left out.
        """
        self.tokenizer = tokenizer
        self.passages = passages
        self.statements = statements
        self.test = test
        self.settings = settings
        self.randomness = random.Random(settings.seed)
        self._clean = without_control_tokens(tokenizer)
        self.answerable = [q for q in questions if q.answerable]
        self.unanswerable = [q for q in questions if not q.answerable]
        # Distractors beyond the usual context count, so that gold passages left out can be replaced.
        most = settings.contexts + _DISTRACTORS
        found = search([q.text for q in [*self.answerable, *self.unanswerable]], most)
        self.retrieved = {
            q.id: hits for q, hits in zip([*self.answerable, *self.unanswerable], found, strict=True)
        }

    def document_rows(self, randomness: random.Random) -> list[Row]:
        """Plain language modelling of every chunk: as written, or with its sentences in another order."""
        rows = []
        for passage in (*self.passages, *self.statements):
            text = passage.text if randomness.random() < 0.5 else shuffle_sentences(passage.text, randomness)
            rows.append(self._document_row(f"{passage.title}: {text}"))
        return rows

    def section_rows(self) -> list[Row]:
        """Every chunk as the answer to what its document says, under its heading if it has one."""
        rows = []
        for passage in self.passages:
            under = f' under "{passage.heading}"' if passage.heading else ""
            question = f'What does "{passage.title}" say{under}?'
            rows.append(self._answer_row(RowKind.SECTION, question, (), passage.text))
        return rows

    def pattern_rows(self) -> list[Row]:
        """Questions made from the sentences of every chunk by rule, in both directions."""
        return [
            self._answer_row(RowKind.PATTERN, f"{title}: {made.text}", (), made.answer)
            for title, made in self._pattern_questions
        ]

    @cached_property
    def _pattern_questions(self) -> list[tuple[str, PatternQuestion]]:
        return pattern_questions(self.passages, self.test)

    def cloze_rows(self, randomness: random.Random, per_passage: int = 4) -> list[Row]:
        """Sentences with a name, number or term to fill in, asked and answered like a closed-book question."""
        rows = []
        for passage in self.passages:
            clozes = make_clozes(passage.text)
            chosen = randomness.sample(clozes, min(per_passage, len(clozes)))
            rows += [self._cloze_row(passage.title, cloze) for cloze in chosen]
        return rows

    def closed_book_rows(self, kind: RowKind = RowKind.CLOSED_BOOK) -> list[Row]:
        """Train questions without any context; as REFRESHER they are asked among the open-book rows."""
        return [self._answer_row(kind, q.text, (), q.answers[0]) for q in self.answerable]

    def open_book_rows(self, randomness: random.Random) -> list[Row]:
        """Train questions with retrieved passages, and a share of questions that the passages do not answer.

        As in RAFT (Zhang et al. 2024, arXiv:2403.10131) the gold passage can be left out of some rows while the
        answer stays (`gold_present`). Only unanswerable questions end in abstention, and not too many of them: a
        small model that often sees abstention where retrieval failed soon abstains from everything.
        """
        rows = [
            self._answer_row(
                RowKind.OPEN_BOOK,
                question.text,
                self._contexts(question, randomness.random() < self.settings.gold_present, randomness),
                question.answers[0],
            )
            for question in self.answerable
        ]
        share = self.settings.abstention_share
        count = min(len(self.unanswerable), round(len(rows) * share / (1 - share)))
        for question in randomness.sample(self.unanswerable, count):
            shown = randomness.randint(1, self.settings.contexts)
            contexts = self._as_contexts(self.retrieved[question.id][:shown], randomness)
            rows.append(self._answer_row(RowKind.ABSTENTION, question.text, contexts, ABSTENTION))
        return rows

    def _contexts(self, question: Question, gold_present: bool, randomness: random.Random) -> list[Context]:
        found = self.retrieved[question.id]
        gold = [p for p in found if supports(p, question)] or self._gold_elsewhere(question)
        others = [p for p in found if not supports(p, question)]
        count = randomness.randint(1, self.settings.contexts)
        chosen = [*gold[:1], *others[: count - 1]] if gold_present and gold else others[:count]
        return self._as_contexts(chosen, randomness)

    def _gold_elsewhere(self, question: Question) -> list[Passage]:
        return [p for p in self.passages if supports(p, question)]

    def _as_contexts(self, passages: Sequence[Passage], randomness: random.Random) -> list[Context]:
        contexts = [Context(p.title, p.text) for p in passages]
        randomness.shuffle(contexts)
        return contexts

    def replay_rows(self, texts: Sequence[str], count: int, randomness: random.Random) -> list[Row]:
        """Up to `count` general texts, drawn without repetition and cut where they are long."""
        chosen = randomness.sample(texts, min(count, len(texts)))
        return [self._document_row(text, RowKind.REPLAY, _MOST_REPLAY_TOKENS) for text in chosen]

    def _document_row(self, text: str, kind: RowKind = RowKind.DOCUMENT, most: int | None = None) -> Row:
        ids = self.tokenizer(self._clean(text), add_special_tokens=False)["input_ids"][:most]
        start = (
            self.tokenizer.bos_token_id
            if self.tokenizer.bos_token_id is not None
            else self.tokenizer.eos_token_id
        )
        end = () if most is not None and len(ids) == most else (self.tokenizer.eos_token_id,)
        return Row(kind, (start,), (*ids, *end))

    def _cloze_row(self, title: str, cloze: Cloze) -> Row:
        return self._answer_row(RowKind.CLOZE, f"{title}: {cloze.text}", (), cloze.answer)

    def _answer_row(self, kind: RowKind, question: str, contexts: Sequence[Context], answer: str) -> Row:
        prompt = build_prompt(self.tokenizer, question, contexts)
        completion = self.tokenizer(self._clean(answer), add_special_tokens=False)["input_ids"]
        return Row(kind, tuple(prompt), (*completion, self.tokenizer.eos_token_id))


def pattern_questions(
    passages: Sequence[Passage], test: Sequence[Question]
) -> list[tuple[str, PatternQuestion]]:
    """Questions made by rule, each with the title that is put before it.

    None is one of `test`, exactly or nearly, with its title or without.
    """
    made = [(passage.title, q) for passage in passages for q in make_pattern_questions(passage.text)]
    unlike = set(range(len(made)))
    for texts in ([q.text for _, q in made], [f"{title}: {q.text}" for title, q in made]):
        asked = [Question(str(place), text, ("",), (), Split.TRAIN) for place, text in enumerate(texts)]
        unlike.intersection_update(int(q.id) for q in without_leaks(asked, test)[0])
    return [one for place, one in enumerate(made) if place in unlike]


def supports(passage: Passage, question: Question) -> bool:
    """Whether a passage is of a gold document and holds an accepted answer."""
    text = passage.text.lower()
    return passage.document_id in question.document_ids and any(a.lower() in text for a in question.answers)
