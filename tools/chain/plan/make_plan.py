"""Plan a chain: derive the stages and their keys from the chain file, without starting or writing anything.

A stage's key is a digest of its command, of the code and configs that it uses, and of the keys of the stages before it.
Equal keys mean equal work: stages of two plans with the same key share a folder and run once.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.runtime.machine import PROJECT_ROOT
from tools.chain.plan import stage_commands
from tools.chain.plan.config import ChainConfig, Protocol
from tools.chain.plan.order import sort_drafts
from tools.chain.plan.question_words import question_words
from tools.chain.plan.resources import Resources, find_unknown_labels, look_up_resources
from tools.chain.plan.seeds import expand_seeds
from tools.chain.plan.source import digest_config, digest_module, is_untrained
from tools.chain.plan.stage_commands import Draft
from tools.chain.plan.sweep import expand_grid, list_points
from transfer.weights.sources.remote_weights import is_remote

KEY_LENGTH = 12


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, frozen: what spec.json holds."""

    name: str
    kind: str
    key: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]
    upstream: dict[str, str]
    """Name → folder of the stages before it."""
    always: bool
    array: str
    configs: dict[str, str]
    """Path → digest of the files that are not part of the exported code; checked again when the stage starts."""
    why: dict[str, str]
    """Digests of the key's parts, to explain why a stage runs again."""
    resources: Resources

    @property
    def folder(self) -> str:
        """Return the name of its folder below stages/."""
        return folder_name(self.name, self.key)


def make_plan(config: ChainConfig, places: list[Path], code: Path = PROJECT_ROOT) -> list[Stage]:
    """Return the stages in topological order.

    Args:
        config: the chain.
        places: folders in which the chain's relative file names are looked up, in this order.
        code: the source tree whose modules and configs the stages run.

    Raises:
        ValueError: missing files (all are listed), an unknown stage, or a dependency cycle.

    """
    drafts, problems = draft_stages(config, places, code)
    if problems:
        raise ValueError("\n".join(problems))
    find = _Finder(places, code)
    done: dict[str, Stage] = {}
    for draft in sort_drafts(drafts):
        done[draft.name] = _freeze(draft, done, config, find)
    return list(done.values())


def draft_stages(config: ChainConfig, places: list[Path], code: Path = PROJECT_ROOT) -> tuple[list[Draft], list[str]]:
    """Return the chain's stages without order and keys, and a sentence for unresolved names.

    Raises:
        SettingsError: the grid cannot be expanded.

    """
    owners = {point.name: point.owner for point in list_points(config)}
    find = _Finder(places, code)
    drafts = [
        replace(draft, command=find.files_in(draft), labels=stage_commands.list_labels(draft, owners))
        for draft in _draft(expand_seeds(expand_grid(config)), find)
    ]
    labels = {label for draft in drafts for label in draft.labels}
    return drafts, [*find.say_missing(), *find_unknown_labels(config.resources, labels)]


def folder_name(name: str, key: str) -> str:
    """Return NAME-KEY with every character that is unsafe in a path or a shell replaced by an underscore."""
    return f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', name).lstrip('.-')[:80]}-{key}"


class _Finder:
    """Resolve the file names of a chain and collect the missing ones."""

    def __init__(self, places: list[Path], code: Path) -> None:
        self.places, self.code = [*places, code], code
        self.missing: list[str] = []

    def __call__(self, name: str) -> str:
        """Return a file's name in a command: {code}/… if it is part of the exported code, else its absolute path."""
        path = stage_commands.find_file(name, self.places) or stage_commands.find_named_config(name, self.code)
        if path is None:
            self.missing.append(name)
            return name
        path = path.resolve()
        if path.is_relative_to(self.code / "configs"):
            return f"{{code}}/{path.relative_to(self.code).as_posix()}"
        return str(path)

    def weights(self, name: str) -> str:
        """Return a checkpoint's name in a command: remote names (zoo:, hf://, https://) unchanged, else as files."""
        return name if is_remote(name) else self(name)

    def say_missing(self) -> list[str]:
        """Return one sentence that lists every missing file; none if all exist."""
        if not self.missing:
            return []
        where = ", ".join(map(str, dict.fromkeys(self.places)))
        names = ", ".join(dict.fromkeys(self.missing))
        return [f"the chain names files that do not exist: {names} (searched in {where})"]

    def files_in(self, draft: Draft) -> tuple[str, ...]:
        """Return a user-defined command with the files in it as absolute paths."""
        if draft.kind != "command":
            return draft.command
        paths = {word: stage_commands.find_file(word, self.places) for word in draft.command if "{" not in word}
        return tuple(str(path.resolve()) if (path := paths.get(word)) else word for word in draft.command)

    def real(self, word: str) -> Path:
        """Return the file that an argument of a command names."""
        return Path(word.replace("{code}", str(self.code)))


def _draft(config: ChainConfig, find: _Finder) -> Iterator[Draft]:
    data = str(Path(config.data.root).absolute()) if config.data.root else "{stage:data}/digits"
    if not config.data.root and config.backbones:
        yield stage_commands.make_data(config.data.make)
    for name, backbone in config.backbones.items():
        if backbone.pretrain:
            word = find(backbone.pretrain)
            yield stage_commands.pretrain(name, backbone, data, word, is_untrained(find.real(word), backbone.set))
    for name, backbone in config.backbones.items():
        yield stage_commands.convert(name, backbone, find.weights(backbone.weights) if backbone.weights else "")
    for name, protocol in config.protocols.items():
        ready = replace(protocol, config=find(protocol.config)) if protocol.config else protocol
        yield from _measure_all(config, name, ready, data)
    if config.analyse.config and config.backbones:
        ready_analysis = replace(config.analyse, config=find(config.analyse.config))
        yield stage_commands.analyse(ready_analysis, config.backbones, data)
    for name, own in config.stages.items():
        for seed in own.seeds or (None,):
            yield stage_commands.own(name, own, seed, data)
    if config.report:
        yield stage_commands.report((), question_words(config))
    if config.notify.command or config.notify.url:
        words = [f"command={json.dumps(shlex.join(config.notify.command))}"] if config.notify.command else []
        yield stage_commands.notify((*words, *([f"url={config.notify.url}"] if config.notify.url else [])))


def _measure_all(config: ChainConfig, name: str, protocol: Protocol, data: str) -> Iterator[Draft]:
    seeds: tuple[int | None, ...] = config.seeds if protocol.seeds is None else protocol.seeds
    if protocol.kind == "knn":
        seeds = (None,)  # kNN is deterministic
    for seed in seeds:
        for backbone in protocol.backbones or config.backbones:
            yield stage_commands.measure(name, protocol, backbone, seed, data)


def _freeze(draft: Draft, done: dict[str, Stage], config: ChainConfig, find: _Finder) -> Stage:
    keys = {name: done[name].key for name in draft.after}
    external = {
        word: digest_config(find.real(word)) if word.endswith((".yaml", ".yml")) else _digest_bytes(find.real(word))
        for word in (*draft.configs, *_files_among(draft.command, find))
        if not is_remote(word)  # fetched when the stage runs; its name is among the words
    }
    module = draft.command[draft.command.index("-m") + 1] if "-m" in draft.command else ""
    why: dict[str, Any] = {
        "words": _digest([draft.command, draft.outputs, draft.always]),
        "code": digest_module(module, find.code) if module else "",
        "configs": _digest(external),
        **{f"stage {name}": key for name, key in keys.items()},
    }
    key = _digest([draft.kind, why])[:KEY_LENGTH]
    return Stage(
        name=draft.name,
        kind=draft.kind,
        key=key,
        command=draft.command,
        outputs=draft.outputs,
        upstream={name: done[name].folder for name in draft.after},
        always=draft.always,
        array=draft.array,
        configs={word: digest for word, digest in external.items() if not word.startswith("{code}")},
        why=why,
        resources=look_up_resources(config.resources, draft.labels, is_light=draft.is_light),
    )


def _files_among(command: tuple[str, ...], find: _Finder) -> list[str]:
    """Return the arguments that are absolute paths of files (a script): their content is part of the key."""
    return [word for word in command if word.startswith("/") and find.real(word).is_file()]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest_bytes(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
