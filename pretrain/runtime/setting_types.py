"""Convert the text of a setting to the type of its dataclass field, or report the mistake.

A field's metadata may add: "least" and "above" (bounds), "choices", "unit", "part" (a dict whose values set some of the
fields of this dataclass), "join" (a list is joined to one string) and "shell" (`$` is shell syntax and kept).
"""

import dataclasses
import difflib
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pretrain.runtime.yaml_nodes import FALSE, INTEGER, NUMBER, TRUE, Node, plain_value, walk_scalars

UNITS = {
    "min": "minutes",
    "minutes": "minutes",
    "s": "seconds",
    "gb": "GB",
    "px": "pixels",
    "hours": "hours",
    "epochs": "epochs",
    "steps": "steps",
}
"""Unit of a setting by the last word of its name."""
BAD: Any = object()
"""Replaces an invalid value; the setting keeps its default, so that the remaining ones are checked too."""
SECONDS = {"minutes": 60, "seconds": 1, "hours": 3600}


class SettingsError(ValueError):
    """A setting is unknown, ill-typed or out of range; the message says which, and what is allowed."""


def coerce(kind: Any, node: Node, key: str, mistakes: list[str], about: Mapping[str, Any] | None = None) -> Any:
    """Return the node's value converted to the type `kind`, or BAD; append a sentence per mistake to `mistakes`.

    Args:
        kind: bool, int, float, str, X | None, tuple[X, ...], list[X], dict[str, X], Any or a dataclass.
        node: the value as written.
        key: its dotted key, for the messages.
        mistakes: the list to append to.
        about: the field's metadata.

    """
    about = about or {}
    if dataclasses.is_dataclass(kind):
        values = _coerce_fields(kind, node, key, mistakes)
        return kind(**values) if isinstance(kind, type) and values is not BAD else BAD
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = [entry for entry in arguments if entry is not type(None)]
        return None if node.is_null() else coerce(inner, node, key, mistakes, about)
    if origin in (tuple, list):
        return _coerce_list(arguments[0] if arguments else Any, origin, node, key, mistakes, about)
    if origin is dict:
        return _coerce_dict(arguments[1], node, key, mistakes, about)
    if kind is Any:
        _refuse_interpolation(node, key, mistakes, about)
        return plain_value(node)
    return _coerce_scalar(kind, node, key, mistakes, about)


def entry_schema(kind: Any) -> Any:
    """Return the dataclass X of a field typed dict[str, X]; None for every other type."""
    if get_origin(kind) is dict and dataclasses.is_dataclass(get_args(kind)[1]):
        return get_args(kind)[1]
    return None


def unit_of(key: str, about: Mapping[str, Any] | None = None) -> str:
    """Return the unit of a setting from its metadata or name ("time_min" → minutes); "" if it has none."""
    name = key.rpartition(".")[2]
    word = name.rpartition("_")[2] if "_" in name or name == "hours" else ""
    return str((about or {}).get("unit") or UNITS.get(word, ""))


def say_unknown(where: str, prefix: str, key: str, allowed: Sequence[str]) -> str:
    """Return the error message for a key that is not in `allowed`, suggesting the nearest one with its unit."""
    near = find_near(key, allowed)
    unit = f" ({unit_of(near)})" if near and unit_of(near) else ""
    hint = f". Did you mean {prefix}{near}{unit}?" if near else ""
    return f"{where}: unknown setting {prefix}{key}; allowed are: {', '.join(prefix + name for name in allowed)}{hint}"


def find_near(word: str, known: Sequence[str]) -> str:
    """Return the most similar known word, or "" if none is similar."""
    begun = [name for name in known if name.startswith(f"{word}_") or word.startswith(f"{name}_")]
    return next(iter(difflib.get_close_matches(word, known, 1, 0.6) or begun), "")


def _coerce_fields(kind: Any, node: Node, key: str, mistakes: list[str]) -> Any:
    """Return {field: value} for the fields given in the node; BAD if it is not a mapping."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(node.content, dict):
        got = "nothing" if node.is_null() else f"the single value {plain_value(node)!r}"
        hint = f"; write {key}.NAME for one of them: {', '.join(fields)}" if key else ""
        mistakes.append(f"{node.place()}: {key}: expected a mapping of settings, got {got}{hint}")
        return BAD
    prefix = f"{key}." if key else ""
    values = {}
    for name, inner in node.content.items():
        if name not in fields:
            mistakes.append(say_unknown(node.place(name), prefix, name, list(fields)))
            continue
        values[name] = coerce(fields[name].type, inner, f"{prefix}{name}", mistakes, fields[name].metadata)
    return {name: value for name, value in values.items() if value is not BAD}


def _coerce_list(kind: Any, origin: Any, node: Node, key: str, mistakes: list[str], about: Mapping[str, Any]) -> Any:
    if not isinstance(node.content, list):
        shown = plain_value(node)
        mistakes.append(f"{node.place()}: {key}: expected a list, got {shown!r}; write [{shown}] for a single value")
        return BAD
    found = [coerce(kind, entry, key, mistakes, about) for entry in node.content]
    return BAD if any(entry is BAD for entry in found) else origin(found)


def _coerce_dict(kind: Any, node: Node, key: str, mistakes: list[str], about: Mapping[str, Any]) -> Any:
    if node.is_null():
        return {}
    if not isinstance(node.content, dict):
        mistakes.append(f"{node.place()}: {key}: expected a mapping of names to values, got {plain_value(node)!r}")
        return BAD
    if "part" in about:
        found = {name: _coerce_part(about["part"], inner, f"{key}.{name}", mistakes) for name, inner in _items(node)}
    else:
        found = {name: coerce(kind, inner, f"{key}.{name}", mistakes, about) for name, inner in _items(node)}
    return {name: values for name, values in found.items() if values is not BAD}


def _coerce_part(kind: Any, node: Node, key: str, mistakes: list[str]) -> Any:
    return {} if node.is_null() else _coerce_fields(kind, node, key, mistakes)


def _items(node: Node) -> list[tuple[str, Node]]:
    return list(node.content.items()) if isinstance(node.content, dict) else []


def _coerce_scalar(kind: Any, node: Node, key: str, mistakes: list[str], about: Mapping[str, Any]) -> Any:
    if kind is str and about.get("join") and isinstance(node.content, list):
        return str(about["join"]).join(str(plain_value(entry)) for entry in node.content)
    text = node.content
    value: Any = _READERS[kind](text, node) if isinstance(text, str) else None
    if value is None:
        wanted = _say_kind(kind) + _in_unit(key, about)
        mistakes.append(f"{node.place()}: {key}: expected {wanted}, {_say_got(kind, node, key, about)}")
        return BAD
    if allowed := _out_of_range(value, about):
        mistakes.append(f"{node.place()}: {key} is {value!r}; expected {allowed}{_in_unit(key, about)}")
        return BAD
    if kind is str and "\0" in value:
        mistakes.append(f"{node.place()}: {key}: {value!a} contains a NUL character; remove it")
        return BAD
    if kind is str:
        _refuse_interpolation(node, key, mistakes, about)
    return value


def _read_bool(text: str, _node: Node) -> bool | None:
    word = text.lower()
    return word in TRUE or word == "1" if word in TRUE | FALSE | {"0", "1"} else None


def _read_int(text: str, _node: Node) -> int | None:
    return int(text) if INTEGER.fullmatch(text) else None


def _read_float(text: str, _node: Node) -> float | None:
    return float(text) if NUMBER.fullmatch(text) else None


def _read_text(text: str, node: Node) -> str | None:
    return None if node.is_null() and (text or node.line) else text


_READERS: dict[Any, Any] = {bool: _read_bool, int: _read_int, float: _read_float, str: _read_text}


def _out_of_range(value: Any, about: Mapping[str, Any]) -> str:
    if "choices" in about and value not in about["choices"]:
        return f"one of {', '.join(about['choices'])}"
    if "least" in about and value < about["least"]:
        return f"at least {about['least']}"
    return ""


def _say_kind(kind: Any) -> str:
    return {bool: "true or false", str: "a text", int: "a whole number", float: "a number"}[kind]


def _in_unit(key: str, about: Mapping[str, Any]) -> str:
    return f" ({unit})" if (unit := unit_of(key, about)) else ""


def _say_got(kind: Any, node: Node, key: str, about: Mapping[str, Any]) -> str:
    if node.is_null():
        return "got nothing"
    got = f"got {node.content!r}" if isinstance(node.content, str) else f"got {plain_value(node)!r}"
    seconds = _read_duration(node.content) if isinstance(node.content, str) else None
    if kind in (int, float) and seconds is not None and (unit := unit_of(key, about)) in SECONDS:
        return f"{got}; as Slurm reads it, write {seconds / SECONDS[unit]:g}"
    return got


def _read_duration(text: str) -> int | None:
    """Parse a time in sbatch's formats MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS; return seconds, or None."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None or (match[1] is None and match[3] is None):
        return None
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1] is None and match[4] is None:
        return 60 * first + second
    return 86400 * days + 3600 * first + 60 * second + third


def _refuse_interpolation(node: Node, key: str, mistakes: list[str], about: Mapping[str, Any]) -> None:
    for _, scalar in walk_scalars(node):
        text = str(scalar.content)
        if re.search(r"\$\{(oc\.|env:)", text) or ("${" in text and not about.get("shell")):
            mistakes.append(
                f"{scalar.place()}: {key}: {text!r} is an interpolation, which configs do not support; write the value "
                "itself, or give it as key=value on the command line"
            )
