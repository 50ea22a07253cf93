"""More phrasings of each fact, written by a language model: paraphrases, new questions, statements."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from indexer.corpus import Question, Split
from indexer.files import hash_text
from indexer.splits import words
from tuner.config import SynthesisConfig
from tuner.endpoint import BYTES_PER_TOKEN, Ask, Endpoint, SynthesisError
from tuner.examples import Passage
from tuner.leakage import without_leaks

_TOKENS_PER_ITEM = 60
_ANSWER_TOKENS = 32

_JSON_ONLY = "Reply with one JSON array and nothing else."
_PARAPHRASE = (
    "You rewrite questions. Write {count} other ways to ask the question that follows, each with the same answer and "
    f"no new facts, as JSON strings. {_JSON_ONLY}"
)
_ASK_ABOUT = (
    "You write quiz questions about one passage. Write {count} questions that the passage answers and that can be "
    "understood without seeing it, each with its short answer copied from the passage, as JSON objects "
    f'{{"question": …, "answer": …}}. {_JSON_ONLY}'
)
_STATE = (
    "You restate what a passage says. Write {count} sentences, each true by the passage alone and understood without "
    f"it: the same facts in other words, or what follows from them; as JSON strings. {_JSON_ONLY}"
)
_READ = (
    "Answer the question from the passage in a few words, copied from it. If it does not say, reply: unknown"
)


@dataclass(frozen=True, slots=True)
class Synthesised:
    """What was written and kept, and what was thrown away."""

    questions: tuple[Question, ...]
    """Paraphrases and new questions, all of the train split."""
    statements: tuple[Passage, ...]
    not_recovered: int = 0
    """New questions whose answer a reader did not find in the passage again."""
    like_test: int = 0
    """Questions that nearly equal one of the test questions."""
    unreadable: int = 0
    """Replies that were not the JSON asked for."""

    def describe(self) -> str:
        """One line."""
        return (
            f"synthesis: {len(self.questions)} questions and {len(self.statements)} statements kept; dropped "
            f"{self.not_recovered} whose answer a reader did not recover, {self.like_test} too near a test question; "
            f"{self.unreadable} unreadable replies"
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What synthesis would ask for beyond what is kept already, before any request is sent."""

    requests: int
    most_tokens: int


def estimate(
    endpoint: Endpoint, settings: SynthesisConfig, passages: Sequence[Passage], questions: Sequence[Question]
) -> Estimate:
    """Requests and tokens at most; the round trips of new questions are counted as if all were kept."""
    asks = [
        *_paraphrase_asks(settings, questions),
        *_about_asks(settings, passages),
        *_statement_asks(settings, passages),
    ]
    requests, tokens = endpoint.estimate(asks)
    new, _ = endpoint.estimate(_about_asks(settings, passages))
    trips = new * settings.questions
    # The longest passage, and a question as long as all that one reply may hold.
    longest = max((len(_shown(p).encode()) for p in passages), default=0)
    question = round(_TOKENS_PER_ITEM * settings.questions * BYTES_PER_TOKEN)
    per_trip = Ask(_READ, "x" * (longest + question + len("\nQuestion: ")), _ANSWER_TOKENS).most_tokens
    return Estimate(requests + trips, tokens + trips * per_trip)


def synthesise(
    endpoint: Endpoint,
    settings: SynthesisConfig,
    passages: Sequence[Passage],
    questions: Sequence[Question],
    test: Sequence[Question],
) -> Synthesised:
    """Have everything written for the chunks and the answerable train questions. Raises SynthesisError.

    Nothing of `test` is shown to the endpoint; it only sorts out what was written too near it.
    """
    needed = estimate(endpoint, settings, passages, questions).most_tokens
    if needed > settings.max_tokens:
        raise SynthesisError(
            f"synthesis may take {needed:,} tokens, more than tune.synthesis.max_tokens = {settings.max_tokens:,}; "
            "raise it or ask for fewer variants"
        )
    source = [q for q in questions if q.answerable]
    unreadable = 0
    made: list[Question] = []
    replies = endpoint.replies(_paraphrase_asks(settings, source), "paraphrasing questions")
    for question, reply in zip(source, replies, strict=True):
        texts = _strings(reply)
        unreadable += texts is None
        made += [_paraphrase(question, text) for text in texts or [] if words(text) != words(question.text)]
    pairs: list[tuple[Question, Passage]] = []
    asked = endpoint.replies(_about_asks(settings, passages), "asking about chunks")
    for passage, reply in zip(passages if settings.questions else (), asked, strict=True):
        found = _pairs(reply)
        unreadable += found is None
        pairs += [(_new_question(passage, *pair), passage) for pair in (found or [])[: settings.questions]]
    recovered = _recovered(endpoint, pairs)
    kept, dropped = without_leaks(_distinct([*made, *recovered]), test)
    statements: list[Passage] = []
    stated = endpoint.replies(_statement_asks(settings, passages), "restating chunks")
    for passage, reply in zip(passages if settings.statements else (), stated, strict=True):
        texts = _strings(reply)
        unreadable += texts is None
        statements += [Passage(passage.document_id, passage.title, text) for text in texts or []]
    return Synthesised(tuple(kept), tuple(statements), len(pairs) - len(recovered), len(dropped), unreadable)


def _paraphrase_asks(settings: SynthesisConfig, questions: Sequence[Question]) -> list[Ask]:
    count = settings.paraphrases
    system = _PARAPHRASE.replace("{count}", str(count))
    answerable = [q for q in questions if q.answerable] if count else []
    return [
        Ask(system, f"Question: {q.text}\nAnswer: {q.answers[0]}", _TOKENS_PER_ITEM * count)
        for q in answerable
    ]


def _about_asks(settings: SynthesisConfig, passages: Sequence[Passage]) -> list[Ask]:
    return _passage_asks(_ASK_ABOUT, settings.questions, passages)


def _statement_asks(settings: SynthesisConfig, passages: Sequence[Passage]) -> list[Ask]:
    return _passage_asks(_STATE, settings.statements, passages)


def _passage_asks(instructions: str, count: int, passages: Sequence[Passage]) -> list[Ask]:
    system = instructions.replace("{count}", str(count))
    return [Ask(system, _shown(p), _TOKENS_PER_ITEM * count) for p in (passages if count else ())]


def _shown(passage: Passage) -> str:
    return f"Title: {passage.title}\nPassage: {passage.text}"


def _recovered(endpoint: Endpoint, pairs: Sequence[tuple[Question, Passage]]) -> list[Question]:
    """Round trip: the questions whose answer comes back when the passage is read for it."""
    asks = [Ask(_READ, f"{_shown(p)}\nQuestion: {q.text}", _ANSWER_TOKENS, temperature=0.0) for q, p in pairs]
    replies = endpoint.replies(asks, "checking new questions")
    return [q for (q, _), reply in zip(pairs, replies, strict=True) if _same_answer(q.answers[0], reply)]


def _same_answer(wanted: str, given: str) -> bool:
    """Whether the word sets of two answers overlap by half or one holds the other."""
    mine, theirs = words(wanted), words(given)
    common = len(mine & theirs)
    return common > 0 and (common in (len(mine), len(theirs)) or 2 * common >= len(mine | theirs))


def _paraphrase(question: Question, text: str) -> Question:
    key = hash_text(question.id, text)[:12]
    return Question(f"{question.id}~{key}", text, question.answers, question.document_ids, Split.TRAIN)


def _new_question(passage: Passage, text: str, answer: str) -> Question:
    key = hash_text(passage.document_id, text)[:12]
    return Question(f"synthesised~{key}", text, (answer,), (passage.document_id,), Split.TRAIN)


def _distinct(questions: Sequence[Question]) -> Iterator[Question]:
    seen: set[frozenset[str]] = set()
    for question in questions:
        if (key := words(question.text)) and key not in seen:
            seen.add(key)
            yield question


def _strings(reply: str) -> list[str] | None:
    items = _array(reply)
    return (
        None if items is None else [item.strip() for item in items if isinstance(item, str) and item.strip()]
    )


def _pairs(reply: str) -> list[tuple[str, str]] | None:
    items = _array(reply)
    if items is None:
        return None
    pairs = [(item.get("question"), item.get("answer")) for item in items if isinstance(item, dict)]
    return [(q.strip(), str(a).strip()) for q, a in pairs if isinstance(q, str) and a and q.strip()]


def _array(reply: str) -> list[object] | None:
    """The JSON array in a reply, whatever stands around it."""
    start, end = reply.find("["), reply.rfind("]")
    if start < 0 or end < start:
        return None
    try:
        found = json.loads(reply[start : end + 1])
    except ValueError:
        return None
    return found if isinstance(found, list) else None
