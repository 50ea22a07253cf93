"""reStructuredText to Markdown by way of docutils, with Sphinx's directives and roles kept as their text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles
from docutils.parsers.rst.languages import en

from indexer.tables import markdown_table

_SETTINGS = {
    "_disable_config": True,
    "doctitle_xform": False,
    "docinfo_xform": False,
    "file_insertion_enabled": False,  # `include` and its kin read any file
    "raw_enabled": False,
    "halt_level": 5,  # never: errors leave the text in place
    "report_level": 5,
    "smart_quotes": False,
    "syntax_highlight": "none",
    "line_length_limit": 1_000_000,
}

_NAME = r"[A-Za-z][\w.:+-]*"


def parse_rst(data: bytes) -> tuple[None, str]:
    """No title of its own, and the text with `#` headings, lists, tables and fenced code."""
    text = data.decode("utf-8-sig")
    for name in {*re.findall(rf"^ *\.\. +({_NAME})::(?!\w)", text, re.MULTILINE)} - en.directives.keys():
        directives.register_directive(name, _Nothing if name == "toctree" else _Unknown)
    for name in {*re.findall(rf":({_NAME}):`", text)} - en.roles.keys():
        roles.register_local_role(name, _unknown_role)
    tree = publish_doctree(text, settings_overrides=_SETTINGS)
    return None, "\n\n".join(block for block in _blocks(tree, 0) if block.strip())


class _AnyOption(dict[str, Callable[[str], str]]):
    def __missing__(self, name: str) -> Callable[[str], str]:
        return directives.unchanged


class _Unknown(Directive):
    """A directive of some extension: its argument and its content."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar[Any] = _AnyOption(name=directives.unchanged)

    def run(self) -> list[nodes.Node]:
        found = nodes.container()
        found += [nodes.paragraph(text=line) for line in self.arguments]
        self.state.nested_parse(self.content, self.content_offset, found)
        return [found]


class _Nothing(_Unknown):
    """A directive that lists other files."""

    def run(self) -> list[nodes.Node]:
        return []


def _unknown_role(_name: str, rawtext: str, text: str, *_: Any) -> tuple[list[Any], list[Any]]:
    """The label of `label <target>`, else the target without the marks that shorten it."""
    labelled = re.fullmatch(r"([^<]*\S)\s*<[^<>]*>", text)
    return [nodes.inline(rawtext, labelled[1] if labelled else text.lstrip("~!"))], []


_INVISIBLE = (
    nodes.comment,
    nodes.substitution_definition,
    nodes.target,
    nodes.pending,
    nodes.raw,
    nodes.label,
)


def _blocks(parent: nodes.Element, depth: int) -> Iterator[str]:
    for node in parent.children:
        match node:
            case nodes.section():
                yield from _blocks(node, depth + 1)
            case nodes.title() if isinstance(parent, nodes.section):
                yield f"{'#' * min(depth, 6)} {_line(node)}"
            case nodes.literal_block() | nodes.doctest_block():
                yield f"```\n{node.astext().replace('```', '~~~')}\n```"
            case nodes.table():
                yield markdown_table(
                    [[cell.astext() for cell in row.children] for row in node.findall(nodes.row)]
                )
            case nodes.bullet_list() | nodes.enumerated_list() | nodes.definition_list() | nodes.field_list():
                yield "\n".join(_items(node, depth))
            case nodes.line_block():
                yield "\n".join(line.astext() for line in node.findall(nodes.line))
            case nodes.system_message():  # what could not be understood is kept as it was written
                yield from (block.astext() for block in node.findall(nodes.literal_block))
            case nodes.TextElement() if not isinstance(node, _INVISIBLE):
                yield node.astext()
            case nodes.Element() if not isinstance(node, _INVISIBLE):
                yield from _blocks(node, depth)


def _items(parent: nodes.Element, depth: int) -> Iterator[str]:
    for number, item in enumerate(parent.children, start=1):
        if not isinstance(item, nodes.Element):
            continue
        blocks = list(_blocks(item, depth))
        if isinstance(item, nodes.definition_list_item | nodes.field):
            named = [child for child in item.children if isinstance(child, nodes.term | nodes.field_name)]
            label = ", ".join(map(_line, named))
            yield f"- {label}: {_indented(blocks[len(named) :])}"
        else:
            marker = f"{number}." if isinstance(parent, nodes.enumerated_list) else "-"
            yield f"{marker} {_indented(blocks)}"


def _indented(blocks: list[str]) -> str:
    return "\n".join(blocks).replace("\n", "\n  ")


def _line(node: nodes.Node) -> str:
    return " ".join(node.astext().split())
