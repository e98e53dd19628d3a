"""Generate documentation and JSON schemas from config dataclasses: type, unit, default and meaning of every field."""

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pretrain.runtime.setting_types import entry_schema, unit_of

PLACEHOLDERS = {"resources": "LABEL"}
"""Placeholder for the keys of a mapping, by field; NAME for all others."""
KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "anything"}
JSON_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting."""

    key: str
    """Dotted config key; NAME stands for a user-defined name."""
    kind: str
    unit: str
    default: str
    meaning: str


def list_settings(schema: Any, prefix: str = "") -> Iterator[Setting]:
    """Yield every setting of a dataclass, recursively, in the order of its fields."""
    meanings = read_meanings(schema)
    for field in dataclasses.fields(schema):
        key = f"{prefix}{field.name}"
        inner = field.metadata.get("part") or entry_schema(field.type)
        if dataclasses.is_dataclass(field.type):
            yield from list_settings(field.type, f"{key}.")
        elif inner:
            yield from list_settings(inner, f"{key}.{PLACEHOLDERS.get(field.name, 'NAME')}.")
        else:
            yield Setting(
                key=key,
                kind=say_kind(field.type, field.metadata),
                unit=unit_of(key, field.metadata),
                default=_say_default(field),
                meaning=meanings.get(field.name, ""),
            )


def read_meanings(schema: type[Any]) -> dict[str, str]:
    """Return {field: the docstring under it}, including base classes."""
    found: dict[str, str] = {}
    for kind in reversed(schema.__mro__):
        if kind is object:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        entries = body.body if isinstance(body, ast.ClassDef) else []
        for entry, below in itertools.pairwise(entries):
            if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and _is_text(below):
                found[entry.target.id] = " ".join(ast.literal_eval(below.value).split())  # type: ignore[attr-defined]
    return found


def write_settings(schema: Any, word: str = "") -> str:
    """Return as text the settings whose key or meaning contains `word`: key, type and default, then the meaning."""
    wanted = [entry for entry in list_settings(schema) if word.lower() in entry.key.lower() or word in entry.meaning]
    if not wanted:
        raise ValueError(f"no setting has {word!r} in its name or its meaning")
    width = max(len(entry.key) for entry in wanted)
    lines = []
    for entry in wanted:
        kind = f"{entry.kind} ({entry.unit})" if entry.unit else entry.kind
        lines.append(f"{entry.key:{width}}  {kind}; default {entry.default}")
        lines += textwrap.wrap(entry.meaning, 116, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def write_json_schema(schema: Any, title: str) -> str:
    """Return the JSON schema with which editors complete and validate a config file of this dataclass."""
    values = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": title,
        **_schema_of(schema, {}),
    }
    values["properties"]["_base_"] = {
        "type": "string",
        "description": "File in the same folder whose values this file overrides.",
    }
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def say_kind(kind: Any, about: Mapping[str, Any]) -> str:
    """Return a type in words."""
    if "choices" in about:
        return " or ".join(about["choices"])
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if entry is type(None) else say_kind(entry, {}) for entry in arguments)
    if origin in (tuple, list):
        return f"list of {say_kind(arguments[0], {})}"
    if origin is dict:
        return f"mapping to {say_kind(arguments[1], {})}"
    return KINDS.get(kind, "anything")


def _schema_of(kind: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        meanings, properties = read_meanings(kind if isinstance(kind, type) else type(kind)), {}
        for field in dataclasses.fields(kind):
            properties[field.name] = _schema_of(field.type, field.metadata)
            if text := meanings.get(field.name):
                unit = unit_of(field.name, field.metadata)
                properties[field.name]["description"] = f"{text} ({unit})" if unit else text
        return {"type": "object", "additionalProperties": False, "properties": properties}
    if "part" in about:
        return {"type": "object", "additionalProperties": _schema_of(about["part"], {})}
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if entry is type(None) else _schema_of(entry, {}) for entry in arguments]}
    if origin in (tuple, list):
        return {"type": "array", "items": _schema_of(arguments[0], {})}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], {})}
    values: dict[str, Any] = {"type": JSON_KINDS[kind]} if kind in JSON_KINDS else {}
    if "join" in about:
        values = {"anyOf": [values, {"type": "array", "items": values}]}
    if "choices" in about:
        values["enum"] = list(about["choices"])
    return values | ({"minimum": about["least"]} if "least" in about else {})


def _say_default(field: "dataclasses.Field[Any]") -> str:
    value = field.default if field.default is not dataclasses.MISSING else None
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if isinstance(value, bool):
        return str(value).lower()
    if value in ("", (), {}, None):
        return "none"
    return json.dumps(value) if isinstance(value, (tuple, dict, list)) else str(value)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
