"""Digest what a stage runs: the source that its module imports and the values in its config files.

Comments, docstrings, formatting and code that the stage does not import are ignored: fixing the report does not retrain
an encoder.
"""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.yaml_nodes import DocumentError, plain_value, read_document

PACKAGES = ("pretrain", "transfer", "tools")


@cache
def digest_module(module: str, root: Path = PROJECT_ROOT) -> str:
    """Return a digest of `module` ("tools.pretrain_encoder") and all project modules that it imports, transitively.

    An external or missing module contributes only its name.
    """
    lines = [f"{name} {_digest_source(path)}" for name, path in sorted(import_closure(module, root).items())]
    return hashlib.sha256("\n".join([module, *lines]).encode()).hexdigest()


def import_closure(module: str, root: Path = PROJECT_ROOT) -> dict[str, Path]:
    """Return {module name: file} of `module` and every project module that it imports, packages included."""
    found: dict[str, Path] = {}
    waiting = [module, f"{module}.__main__"]
    while waiting:
        name = waiting.pop()
        path = _find_file(name, root)
        if name in found or path is None:
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *_imports_of(path)]
    return found


@cache
def digest_config(path: Path) -> str:
    """Return a digest of the values in a YAML file and its base files; comments are ignored."""
    return hashlib.sha256(json.dumps(_read_config(path), sort_keys=True).encode()).hexdigest()


def is_untrained(config: Path, words: tuple[str, ...]) -> bool:
    """Return whether a pretraining config has run.epochs=0: its stage writes the random initialisation."""
    key = "run.epochs="
    said = [word.removeprefix(key) for word in words if word.startswith(key)]
    return (said[-1] if said else _epochs_in(config)) == "0"


@cache
def _epochs_in(config: Path) -> str:
    values: dict[str, Any] = {}
    for layer in reversed(_read_config(config) if config.is_file() else []):
        values |= (layer.get("run") or {}) if isinstance(layer, dict) else {}
    return str(values.get("epochs", ""))


def forget_digests() -> None:
    """Clear the caches, so that a process that plans again reads every file again."""
    for function in (digest_module, digest_config, _digest_source, _imports_of, _epochs_in):
        function.cache_clear()


def _read_config(path: Path, seen: tuple[Path, ...] = ()) -> list[Any]:
    """Return the values of a file and of its base files, each file once."""
    try:
        values = plain_value(read_document(path))
    except DocumentError:
        return [hashlib.sha256(path.read_bytes()).hexdigest()]  # a tag of the tool's own: digest the bytes
    if not isinstance(values, dict):
        return [repr(values)]
    based = [values.pop(key) for key in ("_base_", "_BASE_") if key in values]
    layers: list[Any] = [values]
    for name in based:
        parent = path.parent / str(name)
        is_new = parent.is_file() and parent.resolve() not in seen
        layers += _read_config(parent, (*seen, parent.resolve())) if is_new else [str(name)]
    return layers


@cache
def _digest_source(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [entry for entry in body if not _is_text(entry)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _find_file(name: str, root: Path) -> Path | None:
    if name.split(".", maxsplit=1)[0] not in PACKAGES:
        return None
    base = root.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _imports_of(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)
