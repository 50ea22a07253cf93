"""Leakage first: nothing is trained while a test question also stands in train or dev."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from indexer.corpus import Question, Split
from indexer.splits import NEAR_DUPLICATE, compared_words

_PAIRS_NAMED = 10


class LeakageError(ValueError):
    """Test questions that also stand, exactly or nearly, in train or dev; the message names the pairs."""


@dataclass(frozen=True, slots=True)
class LeakageReport:
    """What was compared: all `test` questions with all `others`."""

    test: int
    others: int


def check_leakage(questions: Sequence[Question]) -> LeakageReport:
    """Compare test with train and dev by word sets (Jaccard). Raises LeakageError on any near-duplicate."""
    test = [q for q in questions if q.split is Split.TEST]
    others = [q for q in questions if q.split is not Split.TEST]
    pairs = sorted(
        (test[i].id, others[j].id, others[j].split, likeness) for i, j, likeness in _near_pairs(test, others)
    )
    if pairs:
        named = "; ".join(
            f"{t} (test) ~ {o} ({split}), similarity {likeness:.2f}"
            for t, o, split, likeness in pairs[:_PAIRS_NAMED]
        )
        more = f" and {len(pairs) - _PAIRS_NAMED} more" if len(pairs) > _PAIRS_NAMED else ""
        raise LeakageError(
            f"{len(pairs)} pairs of questions stand both in test and in train or dev: {named}{more}; "
            "give each pair the same split or remove one of them"
        )
    return LeakageReport(len(test), len(others))


def without_leaks(
    made: Iterable[Question], test: Sequence[Question]
) -> tuple[list[Question], list[Question]]:
    """Questions that were made for training: those unlike every test question, and the others."""
    candidates = list(made)
    leaking = {j for _, j, _ in _near_pairs(test, candidates)}
    return (
        [q for j, q in enumerate(candidates) if j not in leaking],
        [q for j, q in enumerate(candidates) if j in leaking],
    )


def format_leakage(report: LeakageReport) -> str:
    """One line for the terminal."""
    return (
        f"leakage: none of {report.test} test questions is in the {report.others} train and dev questions "
        f"(exact or word-set similarity {NEAR_DUPLICATE} and more)"
    )


def _near_pairs(test: Sequence[Question], others: Sequence[Question]) -> Iterator[tuple[int, int, float]]:
    """Places of a test and another question, and the Jaccard similarity of their words, where that is high.

    Two sets as similar as `t` share a word among the rarest `n - ceil(t * n) + 1` of each, so only such pairs are
    compared (prefix filtering: Chaudhuri et al. 2006).
    """
    mine, theirs = ([compared_words(q.text) for q in group] for group in (test, others))
    frequency = Counter(word for group in (*mine, *theirs) for word in group)

    def rarest(group: frozenset[str]) -> list[str]:
        ordered = sorted(group, key=lambda word: (frequency[word], word))
        return ordered[: len(group) - math.ceil(NEAR_DUPLICATE * len(group)) + 1]

    by_rare_word: defaultdict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(mine):
        for word in rarest(group):
            by_rare_word[word].append(i)
    for j, group in enumerate(theirs):
        for i in {i for word in rarest(group) for i in by_rare_word.get(word, ())}:
            common = len(group & mine[i])
            if common >= NEAR_DUPLICATE * (len(group) + len(mine[i]) - common):
                yield i, j, common / (len(group) + len(mine[i]) - common)
