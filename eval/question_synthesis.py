"""Questions for users who have none, made from the documents and marked as synthetic."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest

from indexer.corpus import CorpusError, Document, Evidence, Question, Split
from indexer.files import hash_text
from indexer.splits import near_duplicate_groups, words
from tuner.augment import BLANK, make_clozes, make_pattern_questions, split_sentences

DEV_SHARE, TEST_SHARE = 0.15, 0.3
"""Of the documents; the others are for training."""
FEWEST_DOCUMENTS = 3
"""One for each split."""

_SHORTEST_SENTENCE_WORDS, _LONGEST_SENTENCE_WORDS = 6, 40
_LONGEST_ANSWER_WORDS = 8
_MARKER = re.compile(r"(?:[-*+>•]|\d{1,3}[.)])\s+")
_MARKED_UP = re.compile(r"[|*_`{}<>\[\]#]")
# What these refer to stands in another sentence.
_POINTING = (
    r"it|its|this|that|these|those|he|him|his|she|her|they|them|their|we|us|our|you|your|i|my|me|there|here|then|both"
    r"|one|another|such|each|nobody|everyone|others|neither|either|some|many|most"
)
_POINTS_AWAY = re.compile(rf"(?:{_POINTING})\b", re.IGNORECASE)
_HOLDS_POINTER = re.compile(
    r"\b(?:it|its|this|that|these|those|he|him|his|she|her|they|them|their)\b", re.IGNORECASE
)
# Of the questions in patterns these are those that are mostly sound; "Who or what" takes too much for a verb.
_SOUND = re.compile(r"(?:What (?:is|was|are|were)|When|How much) ")
_NOUN_PHRASE = re.compile(r"(?:[Aa]n? |[Tt]he |[A-Z])")
_NO_SUBJECT = re.compile(
    r"(?:inside|outside|above|below|under|over|beneath|behind|beside|between|among|around|in|on|at|by|for|from|to|with"
    r"|without|of|during|since|before|after|until|when|where|while|if|once|because|although|as|now|today|only|what"
    r"|which|who|how|why|please|never|always|also|even|still|just|again|usually)\b",
    re.IGNORECASE,
)
_NUMBER_WITH_WORD = re.compile(r"(\d[\d.,:/]*) ([^\W\d_]+|%|°\w)(?: .*)?")
_UNIT = re.compile(r"[a-z]+s|[A-Za-z]{1,3}|percent|°[CF]")
_NO_UNIT = re.compile(
    r"a|an|and|are|as|at|but|by|for|had|has|if|in|is|it|its|nor|not|of|off|on|or|out|per|so|than|the|to|up|was|who"
    r"|this|thus|plus|does"
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that can be understood alone, `document.text[start:start + len(text)]`."""

    document: Document
    start: int
    text: str

    @property
    def evidence(self) -> Evidence:
        """Where it stands."""
        return Evidence(self.document.id, self.start, self.start + len(self.text))


@dataclass(frozen=True, slots=True)
class Made:
    """The questions, in the order of documents, and how many were thrown away."""

    questions: tuple[Question, ...]
    repeated: int
    """They ask nearly what another one does, or rest on a sentence that several documents have."""
    not_found: int = 0
    """Questions of a language model whose answer does not stand in the document."""


def make_questions(documents: Mapping[str, Document], count: int, written: Sequence[Question] = ()) -> Made:
    """At most `count` questions, spread evenly over the documents, each document's in one split.

    Those in `written`, by a language model, come before those made by rule. Raises CorpusError if fewer than
    `FEWEST_DOCUMENTS` documents give any.
    """
    shared = _shared_sentences(documents)
    found: dict[str, list[Question]] = {document_id: [] for document_id in documents}
    not_found = 0
    for question in written:
        located = _located(question, documents)
        not_found += located is None
        if located is not None:
            found[located.document_ids[0]].append(located)
    for document in documents.values():
        found[document.id] += _rule_questions(document)
    kept, repeated = _unlike_each_other(found, shared)
    chosen = _spread(kept, count)
    names = list(dict.fromkeys(question.document_ids[0] for question in chosen))
    if len(names) < FEWEST_DOCUMENTS:
        raise CorpusError(
            f"only {len(names)} of {len(documents)} documents give questions, and train, dev and test need one each; "
            "add documents with whole sentences, or write questions yourself"
        )
    splits = split_documents(names)
    place = {name: n for n, name in enumerate(documents)}
    ordered = sorted(chosen, key=lambda q: (place[q.document_ids[0]], q.evidence[0].start))
    return Made(
        tuple(replace(q, split=splits[q.document_ids[0]], synthetic=True) for q in ordered),
        repeated,
        not_found,
    )


def question_lines(questions: Iterable[Question]) -> str:
    """The questions as `indexer.readers.read_questions` reads them."""
    return "".join(json.dumps(_row(question), ensure_ascii=False) + "\n" for question in questions)


def count_origins(questions: Iterable[Question]) -> dict[str, int]:
    """How many questions came about in which way: `pattern`, `cloze` or `synthesised`."""
    return dict(Counter(question.id.partition("~")[0] for question in questions))


def split_documents(names: Sequence[str]) -> dict[str, Split]:
    """A split for every document, by the order of their hashes: at least one for dev and one for test."""
    ordered = sorted(names, key=hash_text)
    test = max(1, round(TEST_SHARE * len(ordered)))
    dev = max(1, round(DEV_SHARE * len(ordered)))
    splits = [Split.TEST] * test + [Split.DEV] * dev + [Split.TRAIN] * len(ordered)
    return dict(zip(ordered, splits, strict=False))


def whole_sentences(document: Document) -> Iterator[Sentence]:
    """The sentences of a document that can be asked about without what stands around them."""
    cursor = 0
    for found in split_sentences(document.text):
        start = document.text.index(found, cursor)
        cursor = start + len(found)
        marker = _MARKER.match(found)
        text = found[marker.end() :] if marker else found
        count = len(text.split())
        if not text.endswith((".", "!")) or _MARKED_UP.search(text):
            continue
        if not _SHORTEST_SENTENCE_WORDS <= count <= _LONGEST_SENTENCE_WORDS:
            continue
        if not _POINTS_AWAY.match(text):
            yield Sentence(document, cursor - len(text), text)


def _rule_questions(document: Document) -> list[Question]:
    """One a sentence: a question where its shape allows it, else a gap. Questions come first, in a drawn order."""
    asked: list[Question] = []
    gaps: list[Question] = []
    for sentence in whole_sentences(document):
        if questions := [*_pattern_questions(sentence)]:
            asked.append(min(questions, key=lambda question: question.id))
        elif questions := [*_gap_questions(sentence)]:
            gaps.append(min(questions, key=lambda question: question.id))
    return [
        *sorted(asked, key=lambda question: question.id),
        *sorted(gaps, key=lambda question: question.id),
    ]


def _pattern_questions(sentence: Sentence) -> Iterator[Question]:
    if _NO_SUBJECT.match(sentence.text):
        return
    for made in make_pattern_questions(sentence.text):
        if not _SOUND.match(made.text) or _HOLDS_POINTER.search(made.text):
            continue
        if made.text.startswith("What ") and not _NOUN_PHRASE.match(made.answer):
            continue  # "What is the joint?" is not answered by "sealed with a gasket"
        if _fits(made.answer, made.text):
            yield _question("pattern", sentence, made.text, _accepted(made.answer))


def _gap_questions(sentence: Sentence) -> Iterator[Question]:
    title = " ".join(sentence.document.title.split())
    for cloze in make_clozes(sentence.text):
        text, answer = cloze.text, cloze.answer
        number, _, last = answer.rpartition(" ")
        if number[-1:].isdigit() and (_NO_UNIT.fullmatch(last) or not _UNIT.fullmatch(last)):
            text, answer = text.replace(BLANK, f"{BLANK} {last}"), number
        if _fits(answer, f"{title} {text}"):
            asked = f'What belongs in the gap, according to "{title}"? {text}'
            yield _question("cloze", sentence, asked, _accepted(answer))


def _fits(answer: str, text: str) -> bool:
    """Whether an answer is short, says something, and is not given away."""
    return (
        len(answer.strip()) > 1
        and len(answer.split()) <= _LONGEST_ANSWER_WORDS
        and bool(words(answer))
        and f" {' '.join(_words(answer))} " not in f" {' '.join(_words(text))} "
    )


def _accepted(answer: str) -> tuple[str, ...]:
    """Of an answer that begins with a number: that with its unit, and the number alone."""
    found = _NUMBER_WITH_WORD.fullmatch(answer)
    return (f"{found[1]} {found[2]}", found[1]) if found else (answer,)


def _question(origin: str, sentence: Sentence, text: str, answers: tuple[str, ...]) -> Question:
    name = hash_text(sentence.document.id, text)[:12]
    return Question(
        f"{origin}~{name}", text, answers, (sentence.document.id,), Split.TRAIN, (sentence.evidence,), True
    )


def _located(question: Question, documents: Mapping[str, Document]) -> Question | None:
    """With the sentence that holds the answer and shares most words with the question; None if none holds it."""
    document = documents.get(question.document_ids[0])
    if document is None:
        return None
    answer, asked = " ".join(_words(question.answers[0])), words(question.text)
    best: tuple[int, Evidence] | None = None
    cursor = 0
    for text in split_sentences(document.text):
        start = document.text.index(text, cursor)
        cursor = start + len(text)
        if answer and f" {answer} " in f" {' '.join(_words(text))} ":
            common = len(asked & words(text))
            if best is None or common > best[0]:
                best = (common, Evidence(document.id, start, cursor))
    return None if best is None else replace(question, evidence=(best[1],))


def _shared_sentences(documents: Mapping[str, Document]) -> set[tuple[str, int]]:
    """Document and start of the sentences that, nearly so, another document has as well."""
    sentences = [sentence for document in documents.values() for sentence in whole_sentences(document)]
    groups = near_duplicate_groups([sentence.text for sentence in sentences])
    return {
        (sentences[place].document.id, sentences[place].start)
        for group in groups
        if len({sentences[place].document.id for place in group}) > 1
        for place in group
    }


def _unlike_each_other(
    found: Mapping[str, Sequence[Question]], shared: set[tuple[str, int]]
) -> tuple[dict[str, list[Question]], int]:
    """Without near-duplicates and without what several documents say, so that no split knows another's facts."""
    # The first of its like is kept: one by a language model before one in a pattern before one with a gap.
    questions = sorted((q for some in found.values() for q in some), key=lambda q: q.id, reverse=True)
    alone = [q for q in questions if (q.document_ids[0], q.evidence[0].start) not in shared]
    firsts = sorted(group[0] for group in near_duplicate_groups([question.text for question in alone]))
    kept: dict[str, list[Question]] = {}
    for place in firsts:
        kept.setdefault(alone[place].document_ids[0], []).append(alone[place])
    return kept, len(questions) - len(firsts)


def _spread(found: Mapping[str, Sequence[Question]], count: int) -> list[Question]:
    """The first question of every document, then the second, and so on."""
    rounds = zip_longest(*found.values())
    return [question for one in rounds for question in one if question is not None][:count]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _row(question: Question) -> dict[str, object]:
    return {
        "id": question.id,
        "question": question.text,
        "answers": question.answers,
        "document_ids": question.document_ids,
        "split": question.split,
        "evidence": [asdict(span) for span in question.evidence],
        "synthetic": question.synthetic,
    }
