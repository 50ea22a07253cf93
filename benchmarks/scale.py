"""What the vector index costs by its size: build, open, search, one update, disk, memory, recall against exact.

    python benchmarks/scale.py [--rows 1000 10000 100000] [--kinds flat ivf ivf-sq8]

Vectors of 384 dimensions in clusters as sentences of chunks of documents are (uniform ones have no neighbours to find,
and make every clustered index look worse than it is); questions as far from a vector as real ones are from the best
vector of their answer (`QUESTION_COSINE`). One Markdown row each, `clusters` being how many of how many are searched.
The table in docs/retrieval.md: `--rows 1000 10000 100000`, then `--rows 1000000 --kinds flat ivf`.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import psutil

from indexer.encoding import Ids, Vectors
from indexer.faiss_part import QUESTION_COSINE, Part, choose_kind
from indexer.vectors import VectorIndex

DIM, QUESTIONS, DEPTH = 384, 200, 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", default=["flat", "ivf", "ivf-sq8"])
    arguments = parser.parse_args()
    print(
        "| vectors | kind | clusters | build s | open ms | search p50 ms | p95 ms | CPU ms a search | update ms",
        end="",
    )
    print(" | MB on disk | MB of memory | recall@10 | recall@100 |\n" + "|---" * 13 + "|")
    for rows in arguments.rows:
        generator = np.random.default_rng(0)
        vectors = clustered(rows, generator)
        ids = np.arange(rows, dtype=np.int64) // 6
        questions = moved(vectors[generator.choice(rows, QUESTIONS)], QUESTION_COSINE, generator)
        _, true = faiss.knn(questions, vectors, DEPTH, metric=faiss.METRIC_INNER_PRODUCT)
        for kind in arguments.kinds:
            measure(kind, ids, vectors, questions, true)


def measure(kind: str, ids: Ids, vectors: Vectors, questions: Vectors, true: Ids) -> None:
    started = time.perf_counter()
    data = Part.build(ids, vectors, kind).to_bytes()  # type: ignore[arg-type]
    build = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.faiss"
        data.tofile(path)
        del data
        before = psutil.Process().memory_info().rss
        started = time.perf_counter()
        mapped = np.memmap(path, dtype=np.uint8)
        hashlib.sha256(mapped.data).hexdigest()
        part = Part.from_bytes(mapped)
        opened = time.perf_counter() - started
        size = path.stat().st_size
        index = VectorIndex(part, "")
        walls, cpus = [], []
        for question in questions:
            started, cpu = time.perf_counter(), time.process_time()
            index.search(question[None], DEPTH)
            walls.append(time.perf_counter() - started)
            cpus.append(time.process_time() - cpu)
        found = rows_found(part, questions)
        memory = psutil.Process().memory_info().rss - before
        started = time.perf_counter()
        alive = ~np.isin(part.chunk_ids, [3])
        VectorIndex(part, "", Part.build(ids[-6:] + 1, vectors[:6], "flat"), alive)
        update = time.perf_counter() - started
        name = f"{kind}{' (default)' if choose_kind('auto', len(ids)) == kind else ''}"
        p50, p95 = np.percentile(walls, [50, 95]) * 1000
        print(
            f"| {len(ids):,} | {name} | {clusters(part)} | {build:.1f} | {opened * 1000:.0f} | {p50:.2f} | {p95:.2f}"
            f" | {np.median(cpus) * 1000:.2f} | {update * 1000:.1f} | {size / 1e6:.0f} | {memory / 1e6:.0f}"
            f" | {recall(found, true, 10):.3f} | {recall(found, true, 100):.3f} |",
            flush=True,
        )


def clusters(part: Part) -> str:
    return "" if part.kind == "flat" else f"{part._rows.nprobe} of {part._rows.nlist}"


def rows_found(part: Part, questions: Vectors) -> Ids:
    """Rows, not chunks: the same search that `Part` makes."""
    _, rows = part._rows.search(questions, DEPTH)
    return rows


def recall(found: Ids, true: Ids, depth: int) -> float:
    pairs = zip(found[:, :depth].tolist(), true[:, :depth].tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / depth for a, b in pairs]))


def clustered(rows: int, generator: np.random.Generator) -> Vectors:
    """Topics of ten documents of ten chunks of six sentences."""
    vectors = unit(generator.standard_normal((-(-rows // 600), DIM), dtype=np.float32))
    for each, cosine in ((10, 0.7), (10, 0.8), (6, 0.8)):
        vectors = moved(np.repeat(vectors, each, axis=0), cosine, generator)
    return vectors[:rows]


def moved(vectors: Vectors, cosine: float, generator: np.random.Generator) -> Vectors:
    """Each at this cosine from where it was, in a random direction."""
    away = generator.standard_normal(vectors.shape, dtype=np.float32)
    away = unit(away - (away * vectors).sum(axis=1, keepdims=True) * vectors)
    return unit(cosine * vectors + np.float32(np.sqrt(1 - cosine**2)) * away)


def unit(vectors: Vectors) -> Vectors:
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


if __name__ == "__main__":
    main()
