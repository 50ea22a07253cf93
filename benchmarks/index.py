"""A full build beside LangChain + FAISS, LlamaIndex + FAISS and txtai: chunks a second and recall@5.

    python -m venv peers   # once, by hand: these packages are not openbook's
    peers/bin/pip install torch==2.13.0 VERSIONS
    python benchmarks/index.py --peers peers/bin/python [--data ../shared/data/squad-xquad-en]

VERSIONS, as measured for docs/retrieval.md: langchain-community==0.4.2 langchain-huggingface==1.2.3
llama-index-core==0.14.25 llama-index-embeddings-huggingface==0.8.0 llama-index-vector-stores-faiss==0.7.0 txtai==9.14.0
and openbook's own numpy, transformers, sentence-transformers and faiss-cpu.

Everyone embeds the same strings, openbook's chunks below their headings, with the same weights, loaded and warm, in
turn, `--rounds` times; the median counts. Peers get the strings ready and have a process each. openbook's time is
that of a whole sync into an empty workspace: parsing, cutting, a vector for each sentence too, SQLite and full text;
its row `encoding only` is the part that the peers do. A question (of train and dev) is found by a chunk that covers
half of a gold span or holds the sentence with the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_OURS = "openbook"
_PEERS = {
    "LangChain + FAISS": ("langchain-community", "langchain-huggingface", "faiss-cpu"),
    "LlamaIndex + FAISS": (
        "llama-index-core",
        "llama-index-embeddings-huggingface",
        "llama-index-vector-stores-faiss",
    ),
    "txtai": ("txtai",),
}
_DEPTH = 5

Build = Callable[[], Callable[[str], list[int]]]
"""Builds an index and returns its search: the places of the nearest five strings."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/squad-xquad-en"))
    parser.add_argument("--peers", type=Path, help="the interpreter that has the peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        measure_peer(arguments.peer, json.loads(arguments.work.read_text()))
    elif arguments.peers is None or not (arguments.data / "documents.jsonl").is_file():
        print(
            "Needs --peers, an interpreter with the peers, and --data, a folder with documents.jsonl. Skipped."
        )
    else:
        compare(arguments.data, arguments.peers, arguments.rounds)


def compare(data: Path, interpreter: Path, rounds: int) -> None:
    """Build with everyone in turn and print the table."""
    from retrieval import first_rank

    from indexer.chunking import embedding_text
    from indexer.config import IndexConfig, Workspace
    from indexer.corpus import Split
    from indexer.encoding import BUNDLED, _bundled_folder, load_encoder
    from indexer.readers import read_documents, read_questions
    from indexer.retriever import Index
    from indexer.sync import sync

    encoder = load_encoder("bundled:all-minilm-l6-v2")
    encoder.encode_queries(["warm"] * 32)
    documents = {document.id: document for document in read_documents(data / "documents.jsonl")}
    questions = [
        question
        for question in read_questions(data / "questions.jsonl", documents)
        if question.answerable and question.evidence and question.split is not Split.TEST
    ]
    texts = [question.text for question in questions]
    times: dict[str, list[float]] = {
        _OURS: [],
        "openbook, encoding only": [],
        **{name: [] for name in _PEERS},
    }
    found: dict[str, list[list[Any]]] = {}
    versions: dict[str, str] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            workspace = Workspace(Path(folder))
            report = sync(workspace, data / "documents.jsonl", encoder, IndexConfig().chunk_tokens)
            times[_OURS].append(report.seconds)
            retriever = Index.open(workspace, encoder).retriever()
            chunks = list(retriever.snapshot.all_chunks())
            found[_OURS] = [[hit.chunk for hit in hits] for hits in retriever.search(texts, _DEPTH)]
            passages = [embedding_text(documents[chunk.document_id], chunk) for chunk in chunks]
            started = time.perf_counter()
            encoder.encode_passages(passages)
            times["openbook, encoding only"].append(time.perf_counter() - started)
            work = Path(folder) / "work.json"
            model = str(_bundled_folder(next(iter(BUNDLED))))
            work.write_text(
                json.dumps({"model": model, "texts": [p.text for p in passages], "questions": texts})
            )
            for name in _PEERS:
                command = [str(interpreter), __file__, "--peer", name, "--work", str(work)]
                answer = subprocess.run(
                    command,
                    stdout=subprocess.PIPE,
                    check=True,
                    text=True,
                    env=os.environ | {"HF_HUB_OFFLINE": "1"},
                )
                reply = json.loads(answer.stdout.splitlines()[-1])
                times[name].append(reply["seconds"])
                versions |= reply["versions"]
                found[name] = [[chunks[place] for place in places] for places in reply["found"]]

    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    fastest = min(medians[name] for name in _PEERS)
    print(
        f"{len(chunks)} chunks, {len(questions)} questions; {', '.join(f'{n} {v}' for n, v in versions.items())}\n"
    )
    print("| | seconds, median (all) | chunks/s | to the fastest peer | recall@5 |")
    print("|---|---|---|---|---|")
    for name, seconds in medians.items():
        ranks = [
            first_rank(question, documents, best)
            for question, best in zip(questions, found.get(name, []), strict=False)
        ]
        recall = f"{sum(rank is not None for rank in ranks) / len(ranks):.3f}" if ranks else ""
        every = ", ".join(f"{one:.1f}" for one in times[name])
        print(
            f"| {name} | {seconds:.1f} ({every}) | {len(chunks) / seconds:.1f} | {fastest / seconds:.2f} | {recall} |"
        )


def measure_peer(name: str, work: dict[str, Any]) -> None:
    """In the peers' interpreter: time one build, search, print both as the last line."""
    build = {"LangChain + FAISS": langchain, "LlamaIndex + FAISS": llamaindex, "txtai": txtai}[name]
    prepared = build(work["model"], work["texts"])
    started = time.perf_counter()
    search = prepared()
    seconds = time.perf_counter() - started
    found = [search(question) for question in work["questions"]]
    versions = {}
    for package in _PEERS[name]:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            sys.exit(f"{sys.executable} has no {package}; install it there")
    print(json.dumps({"seconds": seconds, "found": found, "versions": versions}))


def langchain(model: str, texts: Sequence[str]) -> Build:
    from langchain_community.vectorstores import FAISS
    from langchain_huggingface import HuggingFaceEmbeddings

    embeddings = HuggingFaceEmbeddings(model_name=model, encode_kwargs={"normalize_embeddings": True})
    embeddings.embed_documents(["warm"] * 32)

    def build() -> Callable[[str], list[int]]:
        store = FAISS.from_texts(list(texts), embeddings, [{"place": place} for place in range(len(texts))])
        return lambda question: [
            found.metadata["place"] for found in store.similarity_search(question, k=_DEPTH)
        ]

    return build


def llamaindex(model: str, texts: Sequence[str]) -> Build:
    import faiss
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.vector_stores.faiss import FaissVectorStore

    embed = HuggingFaceEmbedding(model_name=model, embed_batch_size=32)
    dim = len(embed.get_text_embedding_batch(["warm"] * 32)[0])

    def build() -> Callable[[str], list[int]]:
        nodes = [TextNode(text=text, id_=str(place)) for place, text in enumerate(texts)]
        storage = StorageContext.from_defaults(
            vector_store=FaissVectorStore(faiss_index=faiss.IndexFlatIP(dim))
        )
        index = VectorStoreIndex(nodes, storage_context=storage, embed_model=embed)
        retriever = index.as_retriever(similarity_top_k=_DEPTH)
        return lambda question: [int(found.node.node_id) for found in retriever.retrieve(question)]

    return build


def txtai(model: str, texts: Sequence[str]) -> Build:
    from txtai import Embeddings

    embeddings = Embeddings(path=model)
    embeddings.index(["warm"] * 32)

    def build() -> Callable[[str], list[int]]:
        embeddings.index(list(texts))
        return lambda question: [int(place) for place, _ in embeddings.search(question, _DEPTH)]

    return build


if __name__ == "__main__":
    main()
