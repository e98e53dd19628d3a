"""Read settings: frozen dataclasses filled from YAML that holds only differences, and from key=value overrides.

A YAML file may name one parent with `_base_: other.yaml` (beside it); the parent may not name another.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

Schema = TypeVar("Schema")


class SettingsError(ValueError):
    """A setting is unknown, ill-typed or out of range; the text says which, and what is allowed."""


def read_settings(schema: type[Schema], path: str | Path | None = None, overrides: Sequence[str] = ()) -> Schema:
    """Return a `schema` with the values of the YAML file at `path`, then of `overrides` ("model.dim=64").

    Raises:
        SettingsError: with one line per mistake: unknown key (lists the allowed ones), wrong type, bad override.

    """
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if path is not None:
        layers.extend(_read_layers(Path(path)))
    layers.append(("the command line", parse_overrides(overrides)))
    mistakes = [text for where, layer in layers for text in _find_unknown_keys(schema, layer, where)]
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    node = OmegaConf.structured(schema)
    for field in dataclasses.fields(schema):  # type: ignore[arg-type]
        if entry := _entry_schema(field.type):
            names = dict.fromkeys(name for _, layer in layers for name in layer.get(field.name) or {})
            node._get_node(field.name)._set_flag("readonly", False)
            for name in names:
                node[field.name][name] = OmegaConf.structured(entry)
    _unlock(node)
    for where, layer in layers:
        try:
            node = OmegaConf.merge(node, layer)
        except OmegaConfBaseException as error:
            raise SettingsError(f"{where}: {error.full_key}: {str(error.msg or error).splitlines()[0]}") from error
    return cast(Schema, _build(schema, OmegaConf.to_container(node, resolve=True, enum_to_str=False)))


def as_dict(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as plain dictionaries and lists, fit for JSON and for `from_dict`."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(settings)))


def from_dict(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """Return the settings that `as_dict` took apart; refuses unknown keys as `read_settings` does."""
    mistakes = list(_find_unknown_keys(schema, values, "the stored settings"))
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return cast(Schema, _build(schema, values))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return nested dictionaries from "a.b=value" strings; values are read as YAML reads them."""
    bad = [text for text in overrides if "=" not in text or text.startswith("=")]
    if bad:
        raise SettingsError(f"the command line: expected key=value, got {', '.join(map(repr, bad))}")
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))))
    except (OmegaConfBaseException, YAMLError) as error:
        raise SettingsError(f"the command line: {error}") from error


def _read_layers(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    own = _read_yaml(path)
    base = own.pop("_base_", None)
    if base is not None:
        parent = path.parent / str(base)
        values = _read_yaml(parent)
        if "_base_" in values:
            raise SettingsError(f"{parent}: a _base_ may not have a _base_ of its own (it is named by {path})")
        yield str(parent), values
    yield str(path), own


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsError(
            f"{path}: no such config file; see the folder configs/ for those that come with the project"
        )
    try:
        node = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(node, DictConfig):
        raise SettingsError(f"{path}: expected a mapping of settings at the top, got a list or a single value")
    return cast(dict[str, Any], OmegaConf.to_container(node))


def _find_unknown_keys(schema: Any, values: Mapping[str, Any], where: str, prefix: str = "") -> Iterator[str]:
    fields = {field.name: field.type for field in dataclasses.fields(schema)}
    for key, value in values.items():
        if (entry := _entry_schema(fields.get(key))) and isinstance(value, Mapping):
            for name, inner in value.items():
                if isinstance(inner, Mapping):
                    yield from _find_unknown_keys(entry, inner, where, f"{prefix}{key}.{name}.")
                else:
                    yield f"{where}: {prefix}{key}.{name} holds settings of its own, got the single value {inner!r}"
            continue
        if key not in fields:
            allowed = ", ".join(prefix + name for name in fields)
            yield f"{where}: unknown setting {prefix}{key}; allowed are: {allowed}"
        elif dataclasses.is_dataclass(fields[key]):
            if isinstance(value, Mapping):
                yield from _find_unknown_keys(fields[key], value, where, f"{prefix}{key}.")
            else:
                yield f"{where}: {prefix}{key} holds settings of its own, got the single value {value!r}"


def _unlock(node: Any) -> None:
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _unlock(child)


def _build(schema: Any, values: Any) -> Any:
    arguments = {}
    for field in dataclasses.fields(schema):
        if field.name not in values:
            continue
        value = values[field.name]
        if dataclasses.is_dataclass(field.type):
            value = _build(field.type, value)
        elif entry := _entry_schema(field.type):
            value = {name: _build(entry, inner) for name, inner in value.items()}
        elif isinstance(value, list):
            value = tuple(value)
        arguments[field.name] = value
    return schema(**arguments)


def _entry_schema(kind: Any) -> Any:
    """Return the dataclass X of a field typed dict[str, X]; None for every other type."""
    if get_origin(kind) is dict and dataclasses.is_dataclass(get_args(kind)[1]):
        return get_args(kind)[1]
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
