"""What each part of retrieval finds: dense, dense with sentences, BM25, and both fused, on four question sets.

    python benchmarks/retrieval.py [--data ../shared/data] [--sample-only]

Prints one Markdown table a question set. A question is found by the first chunk that covers at least half of a gold
span (the sentence with the answer, if there is one); where there are no gold spans, by the first of a gold document.
`@n` is the share of questions found in the first n chunks; `within t tokens` the share found in the chunks, best first,
that fit into t encoder tokens together, which is the fair comparison with whole paragraphs, since those are longer.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Document, Question, Split
from indexer.encoding import Encoder, load_encoder
from indexer.readers import read_documents, read_questions
from indexer.retrieval_metrics import covers
from indexer.retriever import Index, Retriever
from indexer.snapshot import Chunk
from indexer.sync import sync
from indexer.vectors import VectorIndex

DEPTH = 50
CUTOFFS = (1, 3, 5)
SKEIN = Path(__file__).parents[1] / "examples" / "skein"

Search = Callable[[Sequence[str]], list[list[Chunk]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sample-only", action="store_true")
    arguments = parser.parse_args()
    encoder = load_encoder(ModelConfig().encoder)
    compare("sample", SKEIN / "documents", SKEIN / "questions.jsonl", encoder)
    for name in () if arguments.sample_only else ("squad-xquad-en", "tofu-authors", "pubmedqa-mini"):
        folder = arguments.data / name
        if (folder / "documents.jsonl").is_file():
            compare(name, folder / "documents.jsonl", folder / "questions.jsonl", encoder)
        else:
            print(f"{folder} has no documents.jsonl; name its parent with --data. Skipped.\n")


def compare(name: str, documents_path: Path, questions_path: Path, encoder: Encoder) -> None:
    """Index the documents in a temporary workspace, ask every question in every way, print the tables."""
    documents = {document.id: document for document in read_documents(documents_path)}
    questions = [q for q in read_questions(questions_path, documents) if q.answerable and q.document_ids]
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        sync(workspace, documents_path, encoder, IndexConfig().chunk_tokens)
        retriever = Index.open(workspace, encoder).retriever()
        ways = {
            **ways_to_search(retriever, encoder),
            "whole paragraphs, dense": search_paragraphs(list(documents.values()), encoder),
        }
        texts = [question.text for question in questions]
        found = {way: search(texts) for way, search in ways.items()}
        parts = {
            "train and dev": [i for i, q in enumerate(questions) if q.split is not Split.TEST],
            "test": [i for i, q in enumerate(questions) if q.split is Split.TEST],
        }
        for part, rows in parts.items():
            if not rows:
                continue
            print(f"**{name}, {part}** ({len(rows)} questions)\n")
            print_table(
                {way: [(questions[i], rankings[i]) for i in rows] for way, rankings in found.items()},
                encoder,
            )


def ways_to_search(retriever: Retriever, encoder: Encoder) -> dict[str, Search]:
    """Each part of the retriever alone, and all of it."""
    ids, vectors = retriever.snapshot.chunk_vectors()
    first = np.flatnonzero(np.diff(ids, prepend=-1))
    chunks = {chunk.id: chunk for chunk in retriever.snapshot.all_chunks()}
    whole, sentences = VectorIndex.build(ids[first], vectors[first]), VectorIndex.build(ids, vectors)

    def dense(index: VectorIndex, k: int) -> Search:
        return lambda texts: [
            [chunks[i] for i in best] for best in index.search(encoder.encode_queries(texts), k)
        ]

    def keywords(texts: Sequence[str]) -> list[list[Chunk]]:
        return [[chunks[i] for i, _ in retriever.snapshot.keyword_search(text, DEPTH)] for text in texts]

    return {
        "dense, chunks": dense(whole, DEPTH),
        "dense, chunks and sentences": dense(sentences, 4 * DEPTH),
        "BM25": keywords,
        "fused (the default)": lambda texts: [
            [hit.chunk for hit in hits] for hits in retriever.search(texts, DEPTH)
        ],
    }


def search_paragraphs(documents: Sequence[Document], encoder: Encoder) -> Search:
    """The usual baseline: one vector for each paragraph, as it stands."""
    paragraphs = [
        Chunk(0, document.id, "", "", match.start(), match.end(), match.group())
        for document in documents
        for match in re.finditer(r"\S(?:.|\n(?!\s*\n))*", document.text)
    ]
    vectors = np.concatenate(
        [
            encoder.encode_queries([p.text for p in paragraphs[i : i + 64]])
            for i in range(0, len(paragraphs), 64)
        ]
    )

    def search(texts: Sequence[str]) -> list[list[Chunk]]:
        best = np.argsort(-(encoder.encode_queries(texts) @ vectors.T), axis=1, kind="stable")[:, :DEPTH]
        return [[paragraphs[i] for i in row] for row in best]

    return search


Found = tuple[Question, list[Chunk]]


def print_table(ways: dict[str, list[Found]], encoder: Encoder) -> None:
    lengths = {
        chunk: encoder.count_tokens(chunk.text)
        for chunk in {chunk for rankings in ways.values() for _, chunks in rankings for chunk in chunks[:20]}
    }
    paragraph = np.mean(
        [lengths[chunk] for _, chunks in ways["whole paragraphs, dense"] for chunk in chunks[:5]]
    )
    budgets = [round(float(n * paragraph)) for n in CUTOFFS]
    print("| | " + " | ".join([f"@{n}" for n in CUTOFFS] + [f"within {b} tokens" for b in budgets]) + " |")
    print("|---" * (1 + 2 * len(CUTOFFS)) + "|")
    for way, rankings in ways.items():
        ranks = [first_rank(*found) for found in rankings]
        shares = [sum(rank is not None and rank <= n for rank in ranks) / len(ranks) for n in CUTOFFS]
        for budget in budgets:
            within = [fitting([lengths[c] for c in chunks[:20]], budget) for _, chunks in rankings]
            shares.append(
                sum(rank is not None and rank <= n for rank, n in zip(ranks, within, strict=True))
                / len(ranks)
            )
        print(f"| {way} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    print(flush=True)


def fitting(lengths: Sequence[int], budget: int) -> int:
    """How many, from the first on, stay within the budget together; one always does."""
    return max(1, int(np.searchsorted(np.cumsum(lengths), budget, side="right")))


def first_rank(question: Question, chunks: Sequence[Chunk]) -> int | None:
    for rank, chunk in enumerate(chunks, start=1):
        if (
            any(covers(span, chunk) for span in question.evidence)
            if question.evidence
            else chunk.document_id in question.document_ids
        ):
            return rank
    return None


if __name__ == "__main__":
    main()
