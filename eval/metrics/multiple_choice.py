"""Accuracy on sets whose answers are a few labels (yes, no, maybe), and what always saying one of them scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from eval.metrics.normalise import normalised_tokens

MOST_LABELS = 5
FEWEST_PER_LABEL = 3


class Majority(NamedTuple):
    """The commonest label and its share: the accuracy of never reading the question."""

    label: str
    share: float


def labels_of(answers: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The labels of a set of questions, the commonest first; empty if it is not one of labels.

    It is one if each question has exactly one answer, of at most five that recur at least three times on average.
    """
    if any(len(accepted) != 1 for accepted in answers):
        return ()
    counts = Counter(" ".join(normalised_tokens(accepted[0])) for accepted in answers)
    if not 2 <= len(counts) <= MOST_LABELS or "" in counts or len(answers) < FEWEST_PER_LABEL * len(counts):
        return ()
    return tuple(label for label, _ in counts.most_common())


def multiple_choice(prediction: str, answers: Sequence[str], labels: Sequence[str]) -> float:
    """1.0 if the label that the prediction names is the right one, else 0.0."""
    return float(any(chosen_label(prediction, labels) == " ".join(normalised_tokens(a)) for a in answers))


def chosen_label(prediction: str, labels: Sequence[str]) -> str | None:
    """The label that a prediction names first, as whole words; None if it names none."""
    text = f" {' '.join(normalised_tokens(prediction))} "
    places = {label: text.find(f" {label} ") for label in labels}
    named = [label for label in labels if places[label] >= 0]
    return min(named, key=places.__getitem__, default=None)


def majority(answers: Sequence[Sequence[str]], labels: Sequence[str]) -> Majority:
    """The baseline that every route should beat."""
    right = sum(" ".join(normalised_tokens(accepted[0])) == labels[0] for accepted in answers)
    return Majority(labels[0], right / len(answers))
