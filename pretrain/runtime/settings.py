"""Read configs: frozen dataclasses filled from YAML that contains only differences, and from key=value options.

A YAML file may name one parent with `_base_: other.yaml` (in the same folder); the parent may not name another. The
type of a field determines how its text is parsed; all mistakes are collected, with their lines, and raised together.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pretrain.runtime.setting_types import SettingsError, coerce, entry_schema, say_unknown
from pretrain.runtime.yaml_nodes import DocumentError, Node, parse_document, plain_value, read_document

__all__ = ["SettingsError", "as_dict", "from_dict", "parse_overrides", "parse_value", "read_bool", "read_settings"]

Schema = TypeVar("Schema")
Check = Callable[[Schema], Iterable[tuple[Sequence[str], str]]]
COMMAND_LINE = "the command line"


def read_settings(
    schema: type[Schema],
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    check: Check[Schema] = lambda _settings: (),
) -> Schema:
    """Return a `schema` with the values of the YAML file at `path`, then of `overrides` ("model.dim=64").

    Args:
        schema: a dataclass with a default for every field.
        path: a YAML file; None: defaults and `overrides` only.
        overrides: key=value options.
        check: yields (path of a setting as names, message) for mistakes that types do not reveal.

    Raises:
        SettingsError: with one line per mistake: unknown key (lists the allowed ones), wrong type, malformed option,
            and mistakes found by `check`.

    """
    mistakes: list[str] = []
    node = Node({}, str(path) if path is not None else COMMAND_LINE)
    for layer in _read_layers(Path(path)) if path is not None else ():
        node = _merge(node, layer)
    node = _merge(node, _read_overrides(overrides, mistakes))
    settings: Schema = coerce(schema, node, "", mistakes)
    mistakes += [f"{_locate(node, names)}: {text}" for names, text in check(settings)]
    if mistakes:
        raise SettingsError("\n".join(dict.fromkeys(mistakes)))
    return settings


def as_dict(settings: Any) -> dict[str, Any]:
    """Return a config dataclass as plain dictionaries and lists, for JSON and `from_dict`."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(settings)))


def from_dict(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """Invert `as_dict`; SettingsError for unknown keys, as in `read_settings`."""
    mistakes = list(_find_unknown_keys(schema, values, "the stored settings"))
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return cast(Schema, _build(schema, values))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return nested dictionaries from "a.b=value" strings; values are parsed as YAML.

    Raises:
        SettingsError: an option is malformed.

    """
    mistakes: list[str] = []
    node = _read_overrides(overrides, mistakes)
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return cast(dict[str, Any], plain_value(node))


def parse_value(text: str) -> Any:
    """Parse the text after key= as YAML (list, mapping, number, boolean or null), or return the text itself."""
    return plain_value(_read_value(text))


def read_bool(key: str, text: str) -> bool:
    """Parse a boolean command-line option; SettingsError for anything but true, false, yes, no, on, off, 1 and 0."""
    mistakes: list[str] = []
    value = coerce(bool, _read_value(text), key, mistakes)
    if mistakes:
        raise SettingsError(mistakes[0])
    return value is True


def _read_layers(path: Path) -> Iterator[Node]:
    own = _read_yaml(path)
    content = cast(dict[str, Node], own.content)
    if base := content.pop("_base_", None):
        if not isinstance(base.content, str) or base.is_null():
            raise SettingsError(f"{base.place()}: _base_: expected the name of one file in the same folder")
        parent = path.parent / base.content
        values = _read_yaml(parent)
        if "_base_" in values.content:
            raise SettingsError(f"{parent}: a _base_ may not have a _base_ of its own (it is the _base_ of {path})")
        yield values
    yield own


def _read_yaml(path: Path) -> Node:
    if not path.is_file():
        raise SettingsError(
            f"{path}: no such config file; see the folder configs/ for those that come with the project"
        )
    try:
        node = read_document(path)
    except DocumentError as error:
        raise SettingsError(str(error)) from error
    if node.is_null():
        return Node({}, str(path))
    if not isinstance(node.content, dict):
        raise SettingsError(f"{path}: expected a mapping of settings at the top, got a list or a single value")
    return dataclasses.replace(node, content=dict(node.content))


def _read_overrides(overrides: Sequence[str], mistakes: list[str]) -> Node:
    node = Node({}, COMMAND_LINE)
    bad = [text for text in overrides if "=" not in text or text.startswith("=")]
    if bad:
        mistakes.append(f"{COMMAND_LINE}: expected key=value, got {', '.join(map(repr, bad))}")
    for text in overrides:
        key, sign, value = text.partition("=")
        parts = key.split(".")
        if not sign or not key:
            continue
        if not all(parts):
            mistakes.append(f"{COMMAND_LINE}: {key}: expected names separated by dots, got an empty name")
            continue
        entry = _read_value(value)
        for part in reversed(parts):
            entry = Node({part: entry}, COMMAND_LINE)
        node = _merge(node, entry)
    return node


def _read_value(text: str) -> Node:
    """Return the YAML value in `text`, or the text itself if it is not valid YAML."""
    try:
        node = parse_document(text, COMMAND_LINE, 0)
    except DocumentError:
        return Node(text, COMMAND_LINE)
    if node.is_null() or (node.content == {} and not text.strip()):
        return Node(text.strip(), COMMAND_LINE, plain=True)
    return node


def _merge(below: Node, above: Node) -> Node:
    """Return `below` updated with `above`: mappings are merged recursively, other values replaced."""
    if not isinstance(below.content, dict) or not isinstance(above.content, dict):
        return above
    merged = dict(below.content)
    places = {key: below.place(key) for key in below.content} | {key: above.place(key) for key in above.content}
    for key, node in above.content.items():
        merged[key] = _merge(merged[key], node) if key in merged else node
    return dataclasses.replace(below if not above.content else above, content=merged, places=places)


def _locate(node: Node, names: Sequence[str]) -> str:
    """Return the place of the setting at `names`, or of its nearest parent that is given."""
    place = node.where
    for name in names:
        if not isinstance(node.content, dict) or name not in node.content:
            break
        place, node = node.place(name), node.content[name]
    return place


def _find_unknown_keys(schema: Any, values: Mapping[str, Any], where: str, prefix: str = "") -> Iterator[str]:
    fields = {field.name: field.type for field in dataclasses.fields(schema)}
    for key, value in values.items():
        if (entry := entry_schema(fields.get(key))) and isinstance(value, Mapping):
            for name, inner in value.items():
                yield from _find_unknown_keys(entry, inner, where, f"{prefix}{key}.{name}.")
        elif key not in fields:
            yield say_unknown(where, prefix, key, list(fields))
        elif dataclasses.is_dataclass(fields[key]) and isinstance(value, Mapping):
            yield from _find_unknown_keys(fields[key], value, where, f"{prefix}{key}.")


def _build(schema: Any, values: Any) -> Any:
    arguments = {}
    for field in dataclasses.fields(schema):
        if field.name not in values:
            continue
        value = values[field.name]
        if dataclasses.is_dataclass(field.type):
            value = _build(field.type, value)
        elif entry := entry_schema(field.type):
            value = {name: _build(entry, inner) for name, inner in value.items()}
        elif isinstance(value, list):
            value = tuple(value)
        arguments[field.name] = value
    return schema(**arguments)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
