"""What the service needs to change its workspace: documents, jobs and feedback."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.config import IndexConfig, Workspace
from indexer.parsing import Parser
from indexer.snapshot import Snapshot
from service.feedback import Feedback
from service.jobs import Command, JobKind, Jobs

log = logging.getLogger("openbook.service")

_EVALUATION = re.compile(r"[0-9a-f]{1,64}")
RESULT, REPORT = "result.json", "report.html"


class UnknownEvaluation(LookupError):
    """No finished evaluation has this name."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """A workspace that is being served, and what works on it."""

    workspace: Workspace
    index: IndexConfig
    parser: Parser
    jobs: Jobs
    feedback: Feedback
    patience_seconds: float = 10.0
    """How long a document that is put or deleted waits for a sync to end."""

    @property
    def documents(self) -> Path:
        """The folder, or `.jsonl` file, that is indexed."""
        return self.workspace.resolve(self.index.documents)

    def follow_index(self, followed: str | None = None) -> str:
        """Drop feedback on answers that were shown a document which the index holds no more; returns its corpus's hash.

        There is nothing to do while that is what it was last time, `followed`. Raises IndexMissing, IndexDamaged.
        """
        with closing(Snapshot(self.workspace.database)) as snapshot:
            if snapshot.meta.corpus_hash == followed:
                return followed
        quoted = self.feedback.quoted()  # first, lest what is indexed and rated meanwhile is taken for gone
        with closing(Snapshot(self.workspace.database)) as snapshot:
            for document_id in quoted - snapshot.content_hashes().keys():
                self.feedback.forget_document(document_id)
            return snapshot.meta.corpus_hash

    def close(self) -> None:
        """Stop what works on it."""
        self.jobs.close()
        self.feedback.close()
        self.parser.close()


def open_workbench(workspace: Workspace, index: IndexConfig) -> Workbench:
    """The workbench of a workspace; its jobs run the command line, so that no job slows or ends the service."""

    def openbook(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "openbook", *arguments, "--workspace", str(workspace.root), "--json"]

    def evaluation(printed: str) -> dict[str, Any]:
        return {"evaluation": find_evaluation(workspace, printed)}

    jobs = Jobs(
        workspace.data / "jobs.sqlite",
        {
            JobKind.SYNC: Command(openbook("index"), json.loads),
            JobKind.EVALUATION: Command(openbook("eval"), evaluation),
        },
    )
    feedback = Feedback(workspace.data / "feedback.sqlite")
    return Workbench(workspace, index, Parser(index.max_file_mb), jobs, feedback)


def find_evaluation(workspace: Workspace, printed: str) -> str | None:
    """The name of the evaluation whose result was printed."""
    for path in workspace.evaluations.glob(f"*/{RESULT}"):
        if path.read_text().strip() == printed.strip():
            return path.parent.name
    return None


def read_evaluations(workspace: Workspace) -> list[tuple[str, float, dict[str, Any]]]:
    """Name, time (seconds since 1970) and result of every finished evaluation, the latest first.

    One that another version of openbook wrote in another form, or that was damaged, is passed over.
    """
    found = []
    for path in workspace.evaluations.glob(f"*/{RESULT}"):
        try:
            result = json.loads(path.read_text())
        except ValueError:
            result = None
        if isinstance(result, dict) and {"routes", "verdict"} <= result.keys():
            found.append((path.parent.name, path.stat().st_mtime, result))
        else:
            log.warning("evaluation %s has no readable %s", path.parent.name, RESULT)
    return sorted(found, key=lambda one: -one[1])


def evaluation_file(workspace: Workspace, name: str, file: str) -> Path:
    """A file of a finished evaluation. Raises UnknownEvaluation."""
    path = workspace.evaluations / name / file
    if not _EVALUATION.fullmatch(name) or not path.is_file():
        raise UnknownEvaluation(f"no finished evaluation {name!r}; start one with POST /v1/evaluations")
    return path
