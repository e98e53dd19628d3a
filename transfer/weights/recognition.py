"""Identify which encoder of a checkpoint to convert and which code base wrote it; raise if this is ambiguous."""

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transfer.weights.families import ALSO_CALLED, FAMILIES, HEAD_WORDS, Family
from transfer.weights.key_names import (
    STYLES,
    Container,
    extract,
    find_containers,
    find_prefixes,
    open_container,
    refuse_spoilt_names,
)

BRANCHES = ("query", "key", "teacher", "student")
"""The online encoder and its moving average in MoCo's terms, then the moving average and online encoder in DINO's."""


class AmbiguityError(ValueError):
    """More than one ResNet matches; the text lists the choices."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One ResNet found in a checkpoint."""

    family: str
    container: str
    """Dotted keys from the top of the file; empty: the file is the state_dict itself."""
    prefix: str
    """Key prefix without the wrappers of DDP, torch.compile and the like."""
    raw_prefix: str
    """Key prefix as written in the file."""
    style: str
    branch: str
    state: dict[str, Tensor]
    """Tensors under torchvision's names; may be incomplete."""
    source: str

    def place(self) -> str:
        """Return its location for messages: container and prefix."""
        return f"{self.container or 'the top level'}: {self.raw_prefix or '(no prefix)'}"

    def words(self) -> str:
        """Return the command-line option that selects it, quoted for a shell."""
        return quote_prefix(self.container, self.prefix)


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """Result of a recognition: the chosen ResNet, all candidates, and the remaining keys."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    dropped: tuple[str, ...]
    """Keys of heads and queues in the chosen container."""
    unknown: tuple[str, ...]
    """Keys of the chosen container that belong to no branch or head; the file is then refused."""

    def reason(self) -> str:
        """Return one sentence on why this family and branch were chosen."""
        chosen = self.chosen
        others = sorted({other.branch for other in self.candidates} - {chosen.branch})
        beside = f"; also there: {', '.join(others)}" if others else ""
        return f"{chosen.style} names under {chosen.place()} are the {chosen.branch} branch of {chosen.family}{beside}"


def recognise(
    tree: Mapping[str, Any],
    where: str,
    *,
    family: str | None = None,
    branch: str | None = None,
    prefix: str | None = None,
) -> Recognition:
    """Return the ResNet of the tree that is to be converted.

    Args:
        tree: the checkpoint.
        where: its path, for messages.
        family: family whose scheme to use; None: recognised.
        branch: encoder to take; None: the query.
        prefix: "CONTAINER:PREFIX", the encoder's location in a file of no known scheme; excludes `family` and `branch`.

    Raises:
        ValueError: there is no ResNet, or its names were corrupted by a conversion script.
        AmbiguityError: there are several different ones, and `family` and `branch` do not select one.

    """
    families = _select_families(family)
    if branch is not None and branch not in BRANCHES:
        raise ValueError(f"branch={branch}: expected one of {', '.join(BRANCHES)}")
    if prefix is not None and (family or branch):
        raise ValueError("prefix=… already selects the encoder; leave out family=… and branch=…")
    found = dict(find_containers(tree))
    if not found:
        raise ValueError(f"{where}: holds no tensor at all (top-level keys: {_list(tree)}); give an encoder checkpoint")
    marks = [f"{place}.{name}".lstrip(".") for place, state in found.items() for name in state]
    marks += [str(key) for key in tree]
    for state in found.values():
        refuse_spoilt_names(state, where, detectron2="__author__" in tree or "matching_heuristics" in tree)
    containers = {place: open_container(state, where) for place, state in found.items()}
    if prefix is not None:
        candidates = [_take_place(containers, prefix, where)]
    else:
        candidates = [
            candidate
            for place, container in containers.items()
            for candidate in _find_candidates(place, container, families, marks, where)
        ]
    if not candidates:
        raise ValueError(_explain_nothing(containers, where, family))
    chosen = _choose(candidates, where, branch)
    inside = chosen.prefix if prefix is not None else ""
    dropped, unknown = _sort_rest(containers[chosen.container], chosen.container, candidates, inside)
    return Recognition(chosen=chosen, candidates=tuple(candidates), dropped=dropped, unknown=unknown)


def list_resnets(tree: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """Return (location, option that selects it) of every ResNet found in the tree."""
    containers = {place: open_container(state, where) for place, state in find_containers(tree)}
    return [
        (f"{place or 'the top level'}: {prefix or '(no prefix)'}, {style} names", quote_prefix(place, prefix))
        for place, container in containers.items()
        for prefix, style in find_prefixes(container.tensors)
    ]


def quote_prefix(container: str, prefix: str) -> str:
    """Return "prefix=CONTAINER:PREFIX" as one shell word whose value YAML reads as a string."""
    value = f"{container}:{prefix}"
    plain = re.fullmatch(r"[A-Za-z_][\w.-]*:[\w.-]+", value)
    return f"prefix={value}" if plain else shlex.quote(f"prefix={json.dumps(value, ensure_ascii=False)}")


def _take_place(containers: Mapping[str, Container], prefix: str, where: str) -> Candidate:
    """Return the encoder at "CONTAINER:PREFIX"; without a colon, at this prefix in the only container that has it."""
    place, colon, inside = prefix.rpartition(":")
    places = [place] if colon else [name for name, entry in containers.items() if _has(entry, inside)]
    styles = [style for name in places if name in containers for style in _has(containers[name], inside)]
    if len(places) != 1 or len(styles) != 1:
        there = [
            quote_prefix(name, found) for name, entry in containers.items() for found, _ in find_prefixes(entry.tensors)
        ]
        raise ValueError(f"{where}: no ResNet at prefix={prefix}; ResNets found: {', '.join(there) or 'none'}")
    state, raw = extract(containers[places[0]], inside, styles[0], where)
    return Candidate(
        family="prefix",
        container=places[0],
        prefix=inside,
        raw_prefix=raw,
        style=styles[0],
        branch="query",
        state=state,
        source=f"selected by prefix={prefix}",
    )


def _has(container: Container, prefix: str) -> list[str]:
    """Return the naming style of the ResNet at a prefix, as a list; [] if there is none."""
    return [style for found, style in find_prefixes(container.tensors) if found == prefix]


def _select_families(family: str | None) -> tuple[Family, ...]:
    if family is None:
        return FAMILIES
    name = ALSO_CALLED.get(family, family)
    chosen = [entry for entry in FAMILIES if entry.name == name]
    if len(chosen) > 1:  # marks distinguish the family's own layouts
        return tuple(chosen)
    if chosen:
        return (dataclasses.replace(chosen[0], marks=""),)
    known = ", ".join(dict.fromkeys([*(entry.name for entry in FAMILIES), *ALSO_CALLED]))
    raise ValueError(f"family={family}: unknown, expected one of {known}")


def _find_candidates(
    place: str, container: Container, families: tuple[Family, ...], marks: list[str], where: str
) -> Iterator[Candidate]:
    for prefix, style in find_prefixes(container.tensors):
        fitting = [
            (family, branch)
            for family in families
            for pattern, inside, branch in family.schemes
            if re.fullmatch(pattern, place) and re.fullmatch(inside, prefix)
            if all((style == name) == (family.name == name) for name in ("detectron2", "caffe2"))
            if not family.marks or any(re.search(family.marks, mark) for mark in marks)
        ]
        if fitting:
            family, branch = fitting[0]
            state, raw = extract(container, prefix, style, where)
            yield Candidate(
                family=family.name,
                container=place,
                prefix=prefix,
                raw_prefix=raw,
                style=style,
                branch=branch,
                state=state,
                source=family.source,
            )


def _choose(candidates: list[Candidate], where: str, branch: str | None) -> Candidate:
    there = sorted({candidate.branch for candidate in candidates})
    if branch is None:
        online = [name for name in there if name in ("query", *(there if there in (["student"], ["teacher"]) else []))]
        if len(online) != 1:
            raise AmbiguityError(
                f"{where}: holds the branches {', '.join(there)}; choose one: branch={' or branch='.join(there)}"
            )
        branch = online[0]
    fitting = [candidate for candidate in candidates if candidate.branch == branch]
    if not fitting:
        raise ValueError(f"{where}: has no branch {branch}; it has {', '.join(there)}")
    if any(not _equal(fitting[0].state, other.state) for other in fitting[1:]):
        choices = "; ".join(f"{candidate.place()} ({candidate.words()})" for candidate in fitting)
        raise AmbiguityError(
            f"{where}: holds several different {branch} encoders: {choices}. Choose one with one of these options"
        )
    return fitting[0]


def _equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def _sort_rest(
    container: Container, place: str, candidates: list[Candidate], inside: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (keys of heads, unknown keys) among the keys that are in no branch of this container.

    If the user gave a prefix, `inside`, all keys outside it count as keys of heads.
    """
    entries = [(entry.prefix, entry.style) for entry in candidates if entry.container == place]
    patterns = [re.compile(re.escape(prefix) + STYLES[style]) for prefix, style in entries]
    words = HEAD_WORDS + (r"|fc1000_[wb]|pred_[wb]|conv1_b|weight_order|\w+_momentum" if _is_caffe2(entries) else "")
    rest = [name for name in container.tensors if not any(pattern.match(name) for pattern in patterns)]
    heads = [
        name
        for name in rest
        if not name.startswith(inside) or any(re.fullmatch(words, word) for word in name.split("."))
    ]
    known = set(heads)
    return tuple(container.raw[name] for name in heads), tuple(
        container.raw[name] for name in rest if name not in known
    )


def _is_caffe2(entries: list[tuple[str, str]]) -> bool:
    return any(style == "caffe2" for _, style in entries)


def _explain_nothing(containers: Mapping[str, Container], where: str, family: str | None) -> str:
    places = [
        (f"{place or 'the top level'}: {prefix or '(no prefix)'}", quote_prefix(place, prefix))
        for place, container in containers.items()
        for prefix, _ in find_prefixes(container.tensors)
    ]
    if places and family:
        listed = ", ".join(place for place, _ in places)
        return (
            f"{where}: no ResNet by the scheme of family={family}; ResNets found at {listed}. Leave out family=…, or "
            f"select one: {places[0][1]}"
        )
    if places:
        lines = "".join(f"\n  {words}" for _, words in places)
        return (
            f"{where}: a ResNet lies at {', '.join(place for place, _ in places)}, which matches no known family. "
            f"To convert it, add:{lines}"
        )
    names = _list([name for container in containers.values() for name in container.raw.values()])
    return f"{where}: no ResNet in it; its tensors are {names}. Give a checkpoint of a ResNet encoder"


def _list(names: Any, shown: int = 6) -> str:
    words = [str(name) for name in names]
    return ", ".join(words[:shown]) + (f" … ({len(words)} in all)" if len(words) > shown else "") or "none"
