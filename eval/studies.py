"""Studies beside an evaluation (freshness, robustness, router, dose), as plain tables for its report.

A study is a JSON file in a folder of its own below the workspace's evaluations. What is in it is shown as it stands:
a table for every mapping of mappings (routes, say), one for the single figures; dose and response are drawn as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eval.dose import DoseResult, dose_plot
from eval.plots import Figure
from eval.result import EvaluationResult

KINDS: Mapping[str, str] = {
    "freshness": "Freshness: after documents changed",
    "robustness": "Robustness: other wordings, other passages",
    "router": "Routing: a route for each question",
    "dose": "Dose and response: more phrasings of each fact",
}
"""File names (without `.json`) with the headings of their sections, in the report's order."""
_DOSE = "dose"
_MOST_ROWS = 60
_MOST_COLUMNS = 12
"""Beside the first, which names the rows."""
_LONG = 20
"""Rows from which a table about routes is shown route by route."""
_ROUTE = "route"
_SENTENCE = "sentence"
_SKIPPED = ("schema", "provenance", _SENTENCE)


@dataclass(frozen=True, slots=True)
class StudyTable:
    """One table, of what the study calls `name`; the first column names the rows."""

    name: str
    header: list[str]
    rows: list[list[str]]
    folded: bool = False
    """Whether it is one of many, to be opened in the page."""

    @property
    def readable(self) -> bool:
        """Whether it is no longer or wider than can be read, as lists of single answers are."""
        return len(self.rows) <= _MOST_ROWS and len(self.header) - 1 <= _MOST_COLUMNS


@dataclass(frozen=True, slots=True)
class Study:
    """A study's tables, its plot if it has one, and where it was read from."""

    kind: str
    title: str
    source: str
    """Its folder and file, in words, with what of it is too large for a report."""
    sentence: str
    """What it says in words, if it does."""
    tables: list[StudyTable]
    figure: Figure | None = None


def latest_studies(evaluations: Path, result: EvaluationResult) -> list[Study]:
    """Of each kind the latest below `evaluations` that was made of the same documents, model and adapters."""
    found = (_latest(evaluations, kind, result) for kind in KINDS)
    return [study for study in found if study is not None]


def _latest(evaluations: Path, kind: str, result: EvaluationResult) -> Study | None:
    files = sorted(evaluations.glob(f"*/{kind}.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files:
        content = _read(path)
        if content is not None and _fits(content.get("provenance"), result):
            sentence, tables = content.get(_SENTENCE), [*_tables(content)]
            return Study(
                kind,
                KINDS[kind],
                _source(f"{path.parent.name}/{path.name}", [table for table in tables if not table.readable]),
                sentence if isinstance(sentence, str) else "",
                [table for table in tables if table.readable],
                _dose_plot(content) if kind == _DOSE else None,
            )
    return None


def _source(file: str, left_out: Sequence[StudyTable]) -> str:
    if not left_out:
        return f"From {file}."
    sizes = (f"{table.name} ({len(table.rows)} rows, {len(table.header)} columns)" for table in left_out)
    return f"From {file}, which also has what is too large to show here: {', '.join(sizes)}."


def _dose_plot(content: Mapping[str, Any]) -> Figure | None:
    """None if there is nothing to draw: then the tables show what there is."""
    try:
        result = DoseResult.model_validate(content)
    except ValidationError:
        return None
    return dose_plot(result) if any(dose.scores for dose in result.doses) else None


def _read(path: Path) -> Mapping[str, Any] | None:
    """What is in a file, or None if that is no JSON object: then it is not one of ours."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _fits(theirs: Any, result: EvaluationResult) -> bool:
    """Whether a study says that it was made of what the evaluation was, for a route that both have.

    One that names no routes is about none of them: it has only to be of the same documents and base model.
    """
    ours = result.provenance
    if not isinstance(theirs, dict):
        return False
    if (theirs.get("corpus"), theirs.get("base_model_hash")) != (ours.corpus, ours.base_model_hash):
        return False
    if "routes" not in theirs:
        return True
    routes, adapters = theirs["routes"], theirs.get("adapters")
    if not isinstance(routes, dict) or not isinstance(adapters, dict):
        return False
    return any(name in routes and adapters.get(name) == ours.adapters.get(name) for name in result.routes)


def _tables(content: Mapping[str, Any]) -> Iterator[StudyTable]:
    single = {
        name: value for name, value in content.items() if name not in _SKIPPED and not _is_nested(value)
    }
    if single:
        yield StudyTable(
            "single figures", ["", ""], [[_words(name), _text(value)] for name, value in single.items()]
        )
    for name, value in content.items():
        if name in _SKIPPED or not _is_nested(value):
            continue
        if isinstance(value, dict):
            yield from _by_column(name, value)
        else:
            yield from _by_row(name, value)


def _by_column(name: str, value: Mapping[str, Any]) -> Iterator[StudyTable]:
    """Mappings side by side, a row for each thing that any of them says; a plain mapping is one column."""
    if not all(isinstance(item, dict) and not _is_measure(item) for item in value.values()):
        yield StudyTable(
            _words(name), [_words(name), ""], [[key, text] for key, text in _flat(value).items()]
        )
        return
    columns = {key: _flat(item) for key, item in value.items()}
    facts = list(dict.fromkeys(fact for column in columns.values() for fact in column))
    if facts:
        rows = [[fact, *(column.get(fact, "-") for column in columns.values())] for fact in facts]
        yield StudyTable(_words(name), [_words(name), *columns], rows)


def _by_row(name: str, value: Sequence[Any]) -> Iterator[StudyTable]:
    """A list of mappings as rows, a long one about routes as a table for each route."""
    if not all(isinstance(item, dict) for item in value):
        return
    rows = [_flat(item) for item in value]
    if len(rows) > _LONG and all(_ROUTE in row for row in rows):
        for route in dict.fromkeys(row[_ROUTE] for row in rows):
            mine = [{k: v for k, v in row.items() if k != _ROUTE} for row in rows if row[_ROUTE] == route]
            yield from _table(name, mine, part=f"{_ROUTE} {route}")
    else:
        yield from _table(name, rows)


def _table(name: str, rows: Sequence[Mapping[str, str]], part: str = "") -> Iterator[StudyTable]:
    """`rows` as a table; its first column is headed by which `part` it is of a whole."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if columns:
        header = [part or columns[0], *columns[1:]]
        cells = [[row.get(key, "-") for key in columns] for row in rows]
        yield StudyTable(
            f"{_words(name)} of {part}" if part else _words(name), header, cells, folded=bool(part)
        )


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        name = f"{before} {_words(key)}".strip()
        if isinstance(item, dict) and not _is_measure(item):
            flat |= _flat(item, name)
        else:
            flat[name] = _text(item)
    return flat


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return not _is_measure(value)
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _is_measure(value: Mapping[str, Any]) -> bool:
    return value.keys() == {"mean", "ci"}


def _text(value: Any) -> str:
    match value:
        case {"mean": float() as mean, "ci": [float() as low, float() as high]}:
            return f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case list():
            return ", ".join(_text(item) for item in value)
        case _:
            return str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
