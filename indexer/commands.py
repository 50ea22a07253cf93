"""What `openbook index` and its sub-commands do and print."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from indexer.beir import read_beir_questions, write_beir
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import CorpusError, Split
from indexer.encoding import load_encoder
from indexer.evaluate import evaluate_retrieval
from indexer.names import shown
from indexer.parsing import Parser
from indexer.ranking import load_ranking
from indexer.readers import read_questions
from indexer.retriever import Index
from indexer.snapshot import Snapshot
from indexer.sync import SyncReport, sync
from indexer.verify import verify
from indexer.watch import watch

_EXCERPT_CHARACTERS = 200


def index_sync(workspace: Workspace, settings: IndexConfig, model: ModelConfig, as_json: bool) -> None:
    """Make the index equal the configured documents and say what that took."""
    documents = workspace.resolve(settings.documents)
    with Parser(settings.max_file_mb) as parser:
        report = sync(
            workspace,
            documents,
            load_encoder(model.encoder),
            settings.chunk_tokens,
            parser,
            settings.vectors,
            settings.overlap_tokens,
        )
    _show(report, as_json)


def index_watch(workspace: Workspace, settings: IndexConfig, model: ModelConfig, as_json: bool) -> None:
    """Sync now and after every change of the documents, until Ctrl-C or SIGTERM, which are no errors."""
    documents = workspace.resolve(settings.documents)
    if not documents.exists():
        raise CorpusError(
            f"{documents}: no such folder or file; set [index] documents to where your documents are"
        )
    encoder = load_encoder(model.encoder)
    last: tuple[object, ...] = ()

    def show(report: SyncReport) -> None:
        nonlocal last
        if last != (last := (report.generation, report.skipped)):
            _show(report, as_json)

    def complain(error: Exception) -> None:
        click.echo(f"not indexed: {error}; still watching", err=True)

    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with Parser(settings.max_file_mb) as parser:
            click.echo(f"watching {documents}; Ctrl-C ends it", err=True)
            watch(
                documents,
                lambda: sync(
                    workspace,
                    documents,
                    encoder,
                    settings.chunk_tokens,
                    parser,
                    settings.vectors,
                    settings.overlap_tokens,
                ),
                show,
                complain,
                stop,
            )
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)
    click.echo("no longer watching", err=True)


def _show(report: SyncReport, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    click.echo(
        f"documents: {report.added} added, {report.changed} changed, {report.removed} removed, "
        f"{report.unchanged} unchanged"
    )
    click.echo(
        f"chunks: {report.chunks}, {report.chunks_embedded} of them embedded now "
        f"({report.seconds:.1f} s, generation {report.generation})"
    )
    for document_id, reason in report.skipped:
        click.echo(f"skipped {document_id}: {reason}", err=True)


def index_verify(workspace: Workspace, as_json: bool) -> None:
    """Check that all parts of the index agree; raises `IndexDamaged` if they do not."""
    report = verify(workspace)
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        click.echo(
            f"generation {report.generation}: {report.documents} documents and {report.chunks} chunks, "
            "the same in SQLite, full text and FAISS"
        )


def index_search(
    workspace: Workspace, settings: IndexConfig, model: ModelConfig, query: str, k: int, as_json: bool
) -> None:
    """Show the chunks that a route with retrieval would be given for `query`."""
    hits = _open(workspace, settings, model).retriever().search([query], k)[0]
    if as_json:
        click.echo(json.dumps([asdict(hit) for hit in hits]))
        return
    for number, hit in enumerate(hits, start=1):
        chunk = hit.chunk
        found_by = ", ".join(
            f"{name} {score:.2f}"
            for name, score in (("rerank", hit.rerank), ("dense", hit.dense), ("bm25", hit.bm25))
            if score is not None
        )
        click.echo(
            f"[{number}] {shown(chunk.title)} ({chunk.document_id}, {chunk.start}-{chunk.end}; {found_by})"
        )
        if chunk.heading:
            click.echo(f"    {shown(chunk.heading)}")
        text = shown(" ".join(chunk.text.split()))
        click.echo(f"    {text[:_EXCERPT_CHARACTERS]}{'...' if len(text) > _EXCERPT_CHARACTERS else ''}")


def index_eval(
    workspace: Workspace,
    settings: IndexConfig,
    model: ModelConfig,
    questions_path: Path,
    split: Split,
    as_json: bool,
) -> None:
    """Score retrieval on the questions of one split that name what they need."""
    beir = questions_path.is_dir()
    questions = read_beir_questions(questions_path) if beir else read_questions(questions_path)
    index = _open(workspace, settings, model)
    if not beir:
        questions = read_questions(questions_path, index.documents())  # sections are spans of documents
    report = evaluate_retrieval(index.retriever(), questions, split)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    click.echo(f"{report.questions} {report.split} questions, generation {report.generation}")
    for name, score in report.metrics.items():
        click.echo(f"{name:20} {score:.3f}")


def _open(workspace: Workspace, settings: IndexConfig, model: ModelConfig) -> Index:
    return Index.open(workspace, load_encoder(model.encoder), load_ranking(settings))


def index_export_beir(workspace: Workspace, questions_path: Path, folder: Path) -> None:
    """Write what is indexed, and the questions that name documents, as a BEIR folder."""
    with closing(Snapshot(workspace.database)) as snapshot:
        documents = snapshot.documents()
    count = write_beir(folder, documents.values(), read_questions(questions_path, documents))
    click.echo(f"{len(documents)} documents and {count} questions in {folder}")
