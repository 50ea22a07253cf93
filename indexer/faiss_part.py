"""One FAISS index, exact or clustered, and the chunk that each of its rows belongs to."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray

from indexer.encoding import Ids, Vectors

Kind: TypeAlias = Literal["auto", "flat", "ivf", "ivf-sq8"]
"""`auto` is `flat` up to `FLAT_ROWS` vectors, else `ivf`. See docs/retrieval.md for what each costs."""

FLAT_ROWS = 50_000
"""Up to here an exact search takes a few milliseconds, less than encoding the question."""

_faiss: Any = (
    faiss  # the declarations that come with FAISS know neither its search parameters nor its readers
)

_TRAINED_ON = 64
"""Vectors for each cluster that k-means sees; more of them find no better clusters."""

_SAMPLE = 256
_NEAREST = 100
_RECALL = 0.99
"""`_clusters_to_probe` asks for this share of the `_NEAREST` true ones, over `_SAMPLE` questions."""

QUESTION_COSINE = 0.59
"""Of a question and the best vector of its gold chunks, on average: measured on squad-xquad-en (train and dev); on the
sample it is 0.51. See docs/retrieval.md."""

_SEED = 1234


def choose_kind(kind: Kind, rows: int) -> Kind:
    """The kind for so many vectors."""
    if kind != "auto" and rows:
        return kind
    return "flat" if rows <= FLAT_ROWS else "ivf"


class Part:
    """A FAISS index; never changed once made, so threads may share it.

    FAISS itself numbers the rows 0, 1, … and this class knows their chunks, because FAISS handles several rows under
    one id differently from index to index.
    """

    def __init__(self, index: Any, data: NDArray[np.uint8] | None = None) -> None:
        """`index` is an `IndexIDMap`, which is only the form in which rows and their chunks are kept together."""
        self._data = data  # that the index lies in
        self._whole = index
        self._rows: Any = faiss.downcast_index(index.index)
        self.chunk_ids: Ids = faiss.vector_to_array(index.id_map)
        """Of each row, ascending."""

    @classmethod
    def build(cls, ids: Ids, vectors: Vectors, kind: Kind = "auto") -> Part:
        """Index `vectors`, [n, dim] L2-normalised; `ids`, [n] ascending, names the chunk of each."""
        kind = choose_kind(kind, len(ids))
        rows: Any = faiss.IndexFlatIP(vectors.shape[1]) if kind == "flat" else _clustered(vectors, kind)
        whole = faiss.IndexIDMap(rows)
        whole.add_with_ids(vectors, ids)
        if kind != "flat":
            rows.nprobe = _clusters_to_probe(rows, vectors)
        return cls(whole)

    @classmethod
    def from_bytes(cls, data: NDArray[np.uint8]) -> Part:
        """What `to_bytes` wrote; stays within `data`, without a copy. FAISS crashes on anything else: check before."""
        return cls(faiss.read_index(_faiss.ZeroCopyIOReader(_faiss.swig_ptr(data), data.size)), data)

    def to_bytes(self) -> NDArray[np.uint8]:
        """The part in FAISS's own format."""
        data: NDArray[np.uint8] = faiss.serialize_index(self._whole)
        return data

    @property
    def kind(self) -> Kind:
        """How it was built."""
        if isinstance(self._rows, faiss.IndexFlat):
            return "flat"
        return "ivf-sq8" if isinstance(self._rows, faiss.IndexIVFScalarQuantizer) else "ivf"

    def search(
        self, queries: Vectors, k: int, usable: NDArray[np.bool_] | None = None, thorough: bool = False
    ) -> tuple[Vectors, Ids]:
        """Scores and chunk ids, [queries, k] each, best first, of the nearest rows; the id is -1 where there is none.

        `usable`, [rows], leaves rows out; `thorough` looks into every cluster.
        """
        bits = None if usable is None else np.packbits(usable, bitorder="little")  # must outlive the search
        selector = None if bits is None else _faiss.IDSelectorBitmap(bits)
        parameters: Any = None
        if self.kind != "flat":
            probes = self._rows.nlist if thorough else self._rows.nprobe
            parameters = _faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        elif selector is not None:
            parameters = _faiss.SearchParameters(sel=selector)
        scores, rows = self._rows.search(queries, max(1, min(k, len(self.chunk_ids))), params=parameters)
        return scores, np.where(rows < 0, -1, self.chunk_ids[rows])

    def codes(self) -> NDArray[np.uint8]:
        """[rows, bytes]: each vector as it is kept."""
        if self.kind == "flat":
            vectors: Vectors = self._rows.reconstruct_n(0, self._rows.ntotal)
            return vectors.view(np.uint8)
        lists = self._rows.invlists
        codes = np.empty((len(self.chunk_ids), lists.code_size), dtype=np.uint8)
        for number in range(lists.nlist):
            if size := lists.list_size(number):
                rows = faiss.rev_swig_ptr(lists.get_ids(number), size)
                found = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
                codes[rows] = found.reshape(size, -1)
        return codes

    def encode(self, vectors: Vectors) -> NDArray[np.uint8]:
        """The codes that these vectors would have."""
        if self.kind == "ivf-sq8":
            coded: NDArray[np.uint8] = self._rows.sq.compute_codes(vectors)
            return coded
        return np.ascontiguousarray(vectors).view(np.uint8)


def _clustered(vectors: Vectors, kind: Kind) -> Any:
    """A trained, empty index with about two clusters for each root of the vectors' number."""
    count, dim = vectors.shape
    clusters = max(1, min(round(2 * math.sqrt(count)), count // 39))
    quantizer = faiss.IndexFlatIP(dim)
    metric = faiss.METRIC_INNER_PRODUCT
    index: Any
    if kind == "ivf":
        index = faiss.IndexIVFFlat(quantizer, dim, clusters, metric)
    else:
        eight_bits = faiss.ScalarQuantizer.QT_8bit
        # A vector's own code, not that of its distance from the cluster, so that `encode` can check it.
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, clusters, eight_bits, metric, False)
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.seed = 8, _TRAINED_ON, _SEED
    index.cp.spherical = True
    index.train(vectors)
    return index


def _clusters_to_probe(index: Any, vectors: Vectors) -> int:
    """The fewest (a power of two) with which the nearest vectors are found about as an exact search finds them.

    Asked with vectors of the index moved as far off as a question is from its answer.
    """
    generator = np.random.default_rng(_SEED)
    chosen = vectors[generator.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False)]
    away = generator.standard_normal(chosen.shape, dtype=np.float32)
    away -= (away * chosen).sum(axis=1, keepdims=True) * chosen
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    queries = (QUESTION_COSINE * chosen + math.sqrt(1 - QUESTION_COSINE**2) * away).astype(np.float32)
    nearest = min(_NEAREST, len(vectors))
    _, true = faiss.knn(queries, vectors, nearest, metric=faiss.METRIC_INNER_PRODUCT)
    probes = 1
    while probes < index.nlist:
        _, found = index.search(queries, nearest, params=_faiss.SearchParametersIVF(nprobe=probes))
        shared = sum(len(set(a) & set(b)) for a, b in zip(true.tolist(), found.tolist(), strict=True))
        if shared >= _RECALL * true.size:
            break
        probes *= 2
    return min(probes, int(index.nlist))
