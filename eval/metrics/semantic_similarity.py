"""Semantic similarity: the cosine of two texts' vectors; for answers that say the same in other words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def semantic_similarity(vector: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """In [0, 1]: the best cosine of `vector` [dim] with one of `others` [n, dim], all L2-normalised."""
    if not len(others):
        return 0.0
    return float(np.clip((others @ vector).max(), 0.0, 1.0))
