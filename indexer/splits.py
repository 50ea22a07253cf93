"""Deterministic train/dev/test splits that keep near-duplicate questions together."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from indexer.corpus import Split
from indexer.files import hash_text

NEAR_DUPLICATE = 0.8
"""Jaccard similarity of word sets from which two questions count as the same."""

_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
"""Japanese and Chinese, which are written without spaces."""

_TRAIN_SHARE, _DEV_SHARE = 0.55, 0.15


def assign_splits(texts: Sequence[str], given: Sequence[Split | None]) -> list[Split]:
    """A split for every question; those given are kept.

    Near-duplicates of a question with a given split follow it; all others are placed by the hash of their
    words, so neither the order of the file nor the other questions decide where a question lands.
    """
    result: list[Split] = [Split.TRAIN] * len(texts)
    for group in near_duplicate_groups(texts):
        known = [split for i in group if (split := given[i]) is not None]
        shared = known[0] if known else _split_by_hash([texts[i] for i in group])
        for i in group:
            result[i] = given[i] or shared
    return result


def near_duplicate_groups(texts: Sequence[str], threshold: float = NEAR_DUPLICATE) -> list[list[int]]:
    """Positions of `texts`, those whose word sets have Jaccard >= `threshold` together (transitively).

    Two sets that similar share a word among the rarest `n - ceil(threshold * n) + 1` of each, so only such
    pairs are compared (prefix filtering: Chaudhuri et al., 2006).
    """
    sets = [compared_words(text) for text in texts]
    frequency = Counter(word for group in sets for word in group)
    leader = list(range(len(texts)))

    def find(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    by_rare_word: defaultdict[str, list[int]] = defaultdict(list)
    for i, mine in enumerate(sets):
        rarest = sorted(mine, key=lambda word: (frequency[word], word))
        prefix = rarest[: len(mine) - math.ceil(threshold * len(mine)) + 1]
        for j in {j for word in prefix for j in by_rare_word[word]}:
            if len(mine & sets[j]) >= threshold * len(mine | sets[j]):
                leader[find(i)] = find(j)
        for word in prefix:
            by_rare_word[word].append(i)

    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i in range(len(texts)):
        groups[find(i)].append(i)
    return list(groups.values())


def words(text: str) -> frozenset[str]:
    """The distinct words of a text, case folded and without punctuation. Stored hashes rest on them."""
    return frozenset(re.findall(r"\w+", text.casefold()))


def compared_words(text: str) -> frozenset[str]:
    """What makes two texts alike: distinct words as in `words`, but of Chinese and Japanese pairs of signs.

    Composed and decomposed letters are the same (Unicode's NFKC); of a text that has no words, the text itself.
    """
    plain = "".join(
        c for c in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(c) != "Cf"
    )
    found = [piece for word in re.findall(r"\w+", plain) for piece in _pieces(word)]
    return frozenset(found or plain.split())


def _pieces(word: str) -> list[str]:
    if len(word) > 2 and _UNSPACED.search(word):
        return [word[i : i + 2] for i in range(len(word) - 1)]
    return [word]


def _split_by_hash(texts: Sequence[str]) -> Split:
    digest = min(hash_text(*sorted(words(text))) for text in texts)
    position = int(digest[:12], 16) / 16**12
    if position < _TRAIN_SHARE:
        return Split.TRAIN
    return Split.DEV if position < _TRAIN_SHARE + _DEV_SHARE else Split.TEST
