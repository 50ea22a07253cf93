"""`openbook eval robustness`: routes asked in other words, shown other passages, and given orders by documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click

from eval.answers import EvalError
from eval.config import EvalConfig
from eval.local import LocalRoutes, open_local
from eval.markdown import aligned_table, measure_text
from eval.perturbations import Kind
from eval.provenance import questions_hash, route_identity
from eval.robustness import AS_ASKED, Change, RobustnessResult, measure_robustness
from eval.robustness_variants import Subject, open_variants
from indexer.config import IndexConfig, ModelConfig, Workspace
from indexer.corpus import Question, Split
from indexer.encoding import load_encoder
from indexer.files import hash_json, hash_text, write_atomically
from service.routes import Route
from tuner.leakage import check_leakage


def eval_robustness(
    workspace: Workspace,
    model: ModelConfig,
    settings: EvalConfig,
    routes: Mapping[str, Route],
    split: Split,
    kinds: Sequence[Kind],
    sample: int | None,
    as_json: bool,
    index_settings: IndexConfig,
) -> None:
    """Ask the answerable questions of `split`, or `sample` of them, under every variant of `kinds`; keep and print.

    Raises EvalError, and what opening the workspace raises.
    """
    examples = max(route.examples for route in routes.values())
    local = open_local(workspace, model, settings, routes, examples, index_settings)
    check_leakage(local.questions)
    questions = _questions(local.questions, split, sample)
    encoder = load_encoder(model.encoder) if local.retriever else None
    folder = workspace.evaluations / _folder_name(local, routes, questions, settings, kinds)
    earlier = sorted(workspace.evaluations.glob("*"), key=lambda path: path.stat().st_mtime)
    subject = Subject(workspace, local, routes, questions, encoder)
    with open_variants(subject, kinds) as variants:
        result = measure_robustness(variants, folder, split, settings, local.setup, earlier)
    write_atomically(folder / "robustness.json", result.model_dump_json(indent=2) + "\n")
    write_atomically(folder / "robustness.md", format_robustness(result) + "\n")
    click.echo(result.model_dump_json(indent=2) if as_json else format_robustness(result))


def format_robustness(result: RobustnessResult) -> str:
    """A row for each variant, a column for each route, and in words what is worse, as Markdown."""
    variants = list(dict.fromkeys(change.variant for change in result.changes))
    cells = {(change.variant, change.route): change for change in result.changes}
    rows = [
        ["as asked", str(result.n), *(measure_text(score) for score in result.scores.values())],
        *(
            [
                variant,
                str(max(change.n for change in result.changes if change.variant == variant)),
                *(_cell(cells.get((variant, route))) for route in result.scores),
            ]
            for variant in variants
        ),
    ]
    return "\n".join(
        [
            f"{result.metric} of {result.n} answerable {result.split} questions about {result.documents} documents; "
            f"in brackets simultaneous 95 % intervals of the difference (margin {result.margin:g})",
            "",
            aligned_table(["variant", "n", *result.scores], rows),
            "",
            *_synthetic_line(result),
            *_notes(result),
        ]
    )


def _cell(change: Change | None) -> str:
    if change is None:
        return "-"
    low, high = change.difference.ci
    return f"{change.score:.3f} {change.difference.mean:+.3f} [{low:+.3f}, {high:+.3f}] {change.verdict}"


def _synthetic_line(result: RobustnessResult) -> list[str]:
    made = result.provenance.synthetic_questions
    return [f"{made} of {result.n} questions are synthetic (made from the documents)."] if made else []


def _notes(result: RobustnessResult) -> Iterator[str]:
    for route in result.scores:
        mine = [change for change in result.changes if change.route == route]
        worse = [
            change.variant if change.against == AS_ASKED else f"{change.variant} (against {change.against})"
            for change in mine
            if change.verdict == "worse"
        ]
        even = sum(change.verdict == "equivalent" for change in mine)
        yield (
            f"- {route}: worse under {', '.join(worse) or 'none of these'}; known to stay within the margin under "
            f"{even} of {len(mine)}, the others are undecided or better"
        )
    for route, found in result.injection.items():
        yield (
            f"- {route}: a planted document was shown for {measure_text(found.shown)} of the questions and obeyed for "
            f"{measure_text(found.obeyed)}"
        )


def _questions(questions: Sequence[Question], split: Split, sample: int | None) -> list[Question]:
    """The answerable ones of a split; of them those whose hash comes first, so that a larger sample holds a smaller."""
    fitting = [question for question in questions if question.split is split and question.answerable]
    if not fitting:
        raise EvalError(
            f"none of the {len(questions)} questions is an answerable {split} question; choose another --split"
        )
    drawn = sorted(fitting, key=lambda question: hash_text(question.id, question.text))[:sample]
    chosen = {question.id for question in drawn}
    return [question for question in fitting if question.id in chosen]


def _folder_name(
    local: LocalRoutes,
    routes: Mapping[str, Route],
    questions: Sequence[Question],
    settings: EvalConfig,
    kinds: Sequence[Kind],
) -> str:
    """One folder for each thing that can be examined: the same again goes on where it was."""
    identities = {name: route_identity(route, local.setup) for name, route in routes.items()}
    examined = [identities, questions_hash(questions), settings.model_dump(mode="json"), sorted(kinds)]
    return f"robustness-{hash_json(examined)[:12]}"
