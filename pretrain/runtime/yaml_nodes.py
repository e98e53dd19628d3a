"""Parse YAML into nodes with line numbers; nothing is executed or resolved, and expansion is bounded.

A scalar keeps its text, so that the type of the field determines its value instead of YAML's type inference: 1.10 stays
"1.10" in a text field, and 12:00:00 is not a number. Values of untyped fields follow YAML 1.2's core schema, with yes,
no, on and off as booleans.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 16 * 1024 * 1024
MAX_NODES = 500_000
"""Maximum number of values in a document; values behind an alias count each time they are used."""
MAX_DEPTH = 40

TRUE, FALSE, NULL = {"true", "yes", "on"}, {"false", "no", "off"}, {"", "~", "null"}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}


class DocumentError(ValueError):
    """A text is not YAML that can be read safely; the message names the line."""


@dataclass(frozen=True)
class Node:
    """One value of a YAML document."""

    content: "dict[str, Node] | list[Node] | str"
    where: str
    """The file, or the command line."""
    line: int = 0
    """1-based; 0 on the command line."""
    plain: bool = False
    """An unquoted scalar."""
    lines: dict[str, int] = field(default_factory=dict)
    """Line of each key of a mapping."""
    places: dict[str, str] = field(default_factory=dict)
    """Origin of each key, after several documents were merged."""
    size: int = 1
    """Number of values it contains, including itself."""
    depth: int = 0
    """Number of levels below it."""

    def place(self, key: str = "") -> str:
        """Return "FILE, line N" of the value, or of one key of a mapping."""
        if key in self.places:
            return self.places[key]
        line = self.lines.get(key, self.line) if key else self.line
        return f"{self.where}, line {line}" if line else self.where

    def is_null(self) -> bool:
        """Return whether the value is empty, ~ or null, unquoted."""
        return self.plain and isinstance(self.content, str) and self.content.lower() in NULL


def read_document(path: str | Path) -> Node:
    """Return the document in the file at `path`; an empty file yields an empty mapping.

    Raises:
        DocumentError: not UTF-8, not valid YAML, too large or too deeply nested, tags, several documents.

    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise DocumentError(f"{path}: {path.stat().st_size / 1e6:.0f} MB, over the limit of 16 MB for a config file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: not UTF-8 (byte {error.start} is {error.object[error.start]:#04x})") from error
    return parse_document(text, str(path))


def parse_document(text: str, where: str, first_line: int = 1) -> Node:
    """Return the document in `text`; errors name `where` and the line, counted from `first_line`."""
    reader = _Reader(where, first_line)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(f"{where}: not valid YAML: {_say_problem(error, first_line)}") from error
    return reader.root or Node({}, where, first_line)


def plain_value(node: Node) -> Any:
    """Return the node as dictionaries, lists and scalars."""
    if isinstance(node.content, dict):
        return {key: plain_value(value) for key, value in node.content.items()}
    if isinstance(node.content, list):
        return [plain_value(value) for value in node.content]
    return _resolve(node.content) if node.plain else node.content


def walk_scalars(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield (dotted key, node) of every scalar."""
    if isinstance(node.content, dict):
        for key, value in node.content.items():
            yield from walk_scalars(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node.content, list):
        for value in node.content:
            yield from walk_scalars(value, path)
    else:
        yield path, node


def _resolve(text: str) -> Any:
    lower = text.lower()
    if lower in NULL:
        return None
    if lower in TRUE | FALSE:
        return lower in TRUE
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) and not re.fullmatch(r"[-+]?0[0-9]+", text) else text


def _say_problem(error: Exception, first_line: int) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    line = f"line {mark.line + first_line}: " if mark and first_line else ""
    return line + (str(problem) if problem else str(error).splitlines()[0])


class _Reader:
    """Build nodes from the parser's events without recursion."""

    def __init__(self, where: str, first_line: int) -> None:
        self.where, self.first_line = where, first_line
        self.root: Node | None = None
        self.stack: list[_Open] = []
        self.anchors: dict[str, Node | None] = {}
        self.documents = self.nodes = 0

    def take(self, event: Any) -> None:
        """Process the next event."""
        line = event.start_mark.line + self.first_line if self.first_line else 0
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._refuse(line, "a second document (---); a config is a single document")
        elif isinstance(event, yaml.AliasEvent):
            node = self.anchors.get(str(event.anchor))
            if node is None:
                what = "contains itself" if event.anchor in self.anchors else "is not defined above"
                raise self._refuse(line, f"the alias *{event.anchor} {what}")
            self._add(node, line)
        elif isinstance(event, yaml.ScalarEvent):
            self._check_tag(event, line)
            plain = not event.style and event.tag is None
            node = Node(event.value, self.where, line, plain)
            self._remember(event.anchor, node)
            self._add(node, line)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._check_tag(event, line)
            self._open(event, line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            closed = self.stack.pop()
            node = Node(
                closed.content, self.where, closed.line, lines=closed.lines, size=closed.size, depth=closed.depth
            )
            self._remember(closed.anchor, node)
            self._add(node, closed.line)

    def _open(self, event: Any, line: int) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise self._refuse(line, f"nested deeper than {MAX_DEPTH} levels")
        if event.anchor:
            self.anchors[event.anchor] = None
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_Open({} if is_mapping else [], line, event.anchor))

    def _remember(self, anchor: str | None, node: Node) -> None:
        if anchor:
            self.anchors[anchor] = node

    def _add(self, node: Node, line: int) -> None:
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        parent.size, parent.depth = parent.size + node.size, max(parent.depth, node.depth + 1)
        if parent.depth > MAX_DEPTH:
            raise self._refuse(line, f"nested deeper than {MAX_DEPTH} levels")
        if parent.size > MAX_NODES:
            raise self._refuse(line, f"aliases that expand to more than {MAX_NODES} values")
        if isinstance(parent.content, list):
            parent.content.append(node)
        elif parent.key is None:
            if not isinstance(node.content, str):
                raise self._refuse(line, "a key must be a string, got a list or a mapping")
            parent.key, parent.key_line = node.content, line
        else:
            self._set(parent, parent.content, node)

    def _set(self, parent: "_Open", content: dict[str, Node], node: Node) -> None:
        key, parent.key = str(parent.key), None
        if key == "<<":
            for other in node.content if isinstance(node.content, list) else [node]:
                if not isinstance(other, Node) or not isinstance(other.content, dict):
                    raise self._refuse(parent.key_line, "<< takes a mapping, or a list of mappings")
                for name, value in other.content.items():
                    if name not in content:
                        content[name], parent.lines[name] = value, other.lines.get(name, parent.key_line)
                        parent.merged.add(name)
            return
        if key in content and key not in parent.merged:
            raise self._refuse(parent.key_line, f"the key {key!r} is given twice (first in line {parent.lines[key]})")
        parent.merged.discard(key)
        content[key], parent.lines[key] = node, parent.key_line

    def _check_tag(self, event: Any, line: int) -> None:
        if event.tag not in (None, "!") and event.tag not in _PLAIN_TAGS:
            raise self._refuse(line, f"the tag {event.tag!r} is not allowed in a config")

    def _refuse(self, line: int, text: str) -> DocumentError:
        return DocumentError(f"{self.where}{f', line {line}' if line else ''}: {text}")


@dataclass
class _Open:
    """A mapping or list that is still being parsed."""

    content: dict[str, Node] | list[Node]
    line: int
    anchor: str | None
    key: str | None = None
    key_line: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    merged: set[str] = field(default_factory=set)
    size: int = 1
    depth: int = 0
