"""Find the one ResNet that is meant in a checkpoint's tree, say whose scheme it is, and refuse what is not clear."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transfer.weights.families import ALSO_CALLED, FAMILIES, HEAD_WORDS, Family
from transfer.weights.resnet_names import torchvision_names

BRANCHES = ("query", "key", "teacher", "student")
"""Online encoder and its moving average, by MoCo's names and by DINO's."""

_STYLES = {
    "torchvision": r"(conv1|bn1|layer[1-4]\.\d+)\.",
    "sequential": r"([01]|[4-7]\.\d+)\.",
    "detectron2": r"(stem|res[2-5])\.",
}
"""How each way of naming begins; sequential is nn.Sequential(conv1, bn1, relu, maxpool, layer1, …)."""

_PREFIXES = {
    "torchvision": r"(?P<prefix>(.+\.)?)layer[1-4]\.\d+\.(conv|bn|downsample)",
    "sequential": r"(?P<prefix>(.+\.)?)[4-7]\.\d+\.(conv|bn|downsample)",
    "detectron2": r"(?P<prefix>(.+\.)?)res[2-5]\.\d+\.(conv|shortcut)",
}
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


class AmbiguityError(ValueError):
    """More than one ResNet could be meant; the text lists the choices."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One ResNet found in a checkpoint."""

    family: str
    container: str
    """Dotted keys from the top of the file; empty: the file is the state_dict itself."""
    prefix: str
    style: str
    branch: str
    state: dict[str, Tensor]
    """Torchvision names; as found, whole or not."""
    source: str

    def place(self) -> str:
        """Return where it lies: container and prefix."""
        return f"{self.container or 'the top level'}: {self.prefix or '(no prefix)'}"


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What was found in a file: the ResNet that is meant, the others, and the keys that go."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    dropped: tuple[str, ...]
    """Keys of heads and queues in the chosen container."""
    unknown: tuple[str, ...]
    """Keys of the chosen container that belong to no branch and no head: a reason to refuse."""

    def reason(self) -> str:
        """Return in one sentence why this family and this branch."""
        chosen = self.chosen
        others = sorted({other.branch for other in self.candidates} - {chosen.branch})
        beside = f"; also there: {', '.join(others)}" if others else ""
        return f"{chosen.style} names under {chosen.place()} are the {chosen.branch} branch of {chosen.family}{beside}"


def recognise(
    tree: Mapping[str, Any], where: str, *, family: str | None = None, branch: str | None = None
) -> Recognition:
    """Return which ResNet of the tree is meant.

    Raises:
        ValueError: none is there, or the file is one that the copied conversion scripts spoil.
        AmbiguityError: several are there, they differ, and `family` and `branch` do not decide.

    """
    families = _select_families(family)
    if branch is not None and branch not in BRANCHES:
        raise ValueError(f"branch={branch}: expected one of {', '.join(BRANCHES)}")
    containers = dict(find_containers(tree))
    if not containers:
        raise ValueError(f"{where}: holds no tensor at all (top-level keys: {_list(tree)}): nothing to convert")
    marks = [f"{place}.{name}".lstrip(".") for place, state in containers.items() for name in state]
    marks += [str(key) for key in tree]
    candidates = []
    for container, state in containers.items():
        refuse_spoilt_names(state, where, detectron2="__author__" in tree or "matching_heuristics" in tree)
        candidates += list(_find_candidates(container, state, families, marks))
    if not candidates:
        raise ValueError(_explain_nothing(containers, where, family))
    chosen = _choose(candidates, where, branch)
    dropped, unknown = _sort_rest(containers[chosen.container], chosen.container, candidates)
    return Recognition(chosen=chosen, candidates=tuple(candidates), dropped=dropped, unknown=unknown)


def find_containers(
    tree: Mapping[Any, Any], path: str = "", level: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (dotted path, tensors by name) of every dictionary that holds tensors under string keys.

    A dictionary that lies in several places is told once: hostile files repeat them without end; `seen` has their ids.
    """
    seen = {id(tree)} if seen is None else seen
    tensors = {key: value for key, value in tree.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for key, value in tree.items():
        if isinstance(key, str) and isinstance(value, Mapping) and level < 6 and id(value) not in seen:
            seen.add(id(value))
            yield from find_containers(value, f"{path}.{key}".lstrip("."), level + 1, seen)


def refuse_spoilt_names(names: Mapping[str, Any], where: str, *, detectron2: bool) -> None:
    """Refuse Detectron2 names as the copied conversion scripts spoil them, each with its own sentence.

    Each of these loads into Detectron2 without an error and leaves layers at random.
    """
    if not detectron2 and not any(re.match(r"(.+\.)?(stem\.(conv1|fc|backbone)|res[2-5]\.\d)", name) for name in names):
        return
    reasons = {
        r"module\.": "keys still begin with module.: Detectron2 would match 0 of them and train from random weights",
        r"stem\.backbone\.|backbone\.(res5|conv1|bn1|layer\d)\.": "keys still begin with backbone.: a C4 model would "
        "load 252 of 318 tensors, and the stem and res5 would stay random",
        r"(.*\.)?stem\.(fc|head|projector|mlp)\.": "the projection head is written as part of the stem",
    }
    for pattern, reason in reasons.items():
        if spoilt := [name for name in names if re.match(pattern, name)]:
            raise ValueError(f"{where}: {reason} (for example {spoilt[0]}). Convert the original checkpoint instead")


def _select_families(family: str | None) -> tuple[Family, ...]:
    if family is None:
        return FAMILIES
    name = ALSO_CALLED.get(family, family)
    if chosen := [entry for entry in FAMILIES if entry.name == name]:
        return (Family(name=name, schemes=chosen[0].schemes, source=chosen[0].source),)
    known = ", ".join([*(entry.name for entry in FAMILIES), *ALSO_CALLED])
    raise ValueError(f"family={family}: unknown, expected one of {known}")


def _find_candidates(
    container: str, state: Mapping[str, Tensor], families: tuple[Family, ...], marks: list[str]
) -> Iterator[Candidate]:
    for prefix, style in _find_prefixes(state):
        fitting = [
            (family, branch)
            for family in families
            for place, pattern, branch in family.schemes
            if re.fullmatch(place, container) and re.fullmatch(pattern, prefix)
            if (style == "detectron2") == (family.name == "detectron2")
            if not family.marks or any(re.search(family.marks, mark) for mark in marks)
        ]
        if fitting:
            family, branch = fitting[0]
            yield Candidate(
                family=family.name,
                container=container,
                prefix=prefix,
                style=style,
                branch=branch,
                state=_extract(state, prefix, style),
                source=family.source,
            )


def _find_prefixes(names: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return (prefix, style) of everything that looks like a ResNet; Detectron2's C4 halves count once."""
    found: dict[tuple[str, str], None] = {}
    for name in names:
        for style, pattern in _PREFIXES.items():
            if match := re.match(pattern, name):
                found[match["prefix"], style] = None
                break
    if ("backbone.", "detectron2") in found:
        found.pop(("roi_heads.", "detectron2"), None)
    return list(found)


def _extract(state: Mapping[str, Tensor], prefix: str, style: str) -> dict[str, Tensor]:
    """Return the ResNet's tensors under torchvision names; a name without a counterpart stays as it is."""
    names = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    if style == "detectron2" and prefix == "backbone.":
        names |= {name: name.removeprefix("roi_heads.") for name in state if re.match(r"roi_heads\.res5\.\d", name)}
    names = {name: short for name, short in names.items() if re.match(_STYLES[style], short)}
    if style == "detectron2":
        names = {name: torchvision_names().get(short, short) for name, short in names.items()}
    if style == "sequential":
        names = {name: _name_child(short) for name, short in names.items()}
    return {short: state[name] for name, short in names.items()}


def _name_child(name: str) -> str:
    child, _, rest = name.partition(".")
    return f"{_CHILDREN[child]}.{rest}"


def _choose(candidates: list[Candidate], where: str, branch: str | None) -> Candidate:
    there = sorted({candidate.branch for candidate in candidates})
    if branch is None:
        online = [name for name in there if name in ("query", *(there if there in (["student"], ["teacher"]) else []))]
        if len(online) != 1:
            raise AmbiguityError(
                f"{where}: holds the branches {', '.join(there)}; say which: branch={' or branch='.join(there)}"
            )
        branch = online[0]
    fitting = [candidate for candidate in candidates if candidate.branch == branch]
    if not fitting:
        raise ValueError(f"{where}: has no branch {branch}; it has {', '.join(there)}")
    if any(not _equal(fitting[0].state, other.state) for other in fitting[1:]):
        choices = "; ".join(f"{candidate.place()} (family={candidate.family})" for candidate in fitting)
        raise AmbiguityError(
            f"{where}: holds several different {branch} encoders: {choices}. Say which by family=…, or keep one"
        )
    return fitting[0]


def _equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def _sort_rest(
    state: Mapping[str, Tensor], container: str, candidates: list[Candidate]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (keys of heads, keys that nobody knows) among what is in no branch of this container."""
    prefixes = [(entry.prefix, entry.style) for entry in candidates if entry.container == container]
    patterns = [re.compile(re.escape(prefix) + _STYLES[style]) for prefix, style in prefixes]
    rest = [name for name in state if not any(pattern.match(name) for pattern in patterns)]
    heads = [name for name in rest if any(re.fullmatch(HEAD_WORDS, word) for word in name.split("."))]
    return tuple(heads), tuple(name for name in rest if name not in set(heads))


def _explain_nothing(containers: Mapping[str, Mapping[str, Tensor]], where: str, family: str | None) -> str:
    found = [
        f"{place or 'the top level'}: {prefix or '(no prefix)'}"
        for place, state in containers.items()
        for prefix, _ in _find_prefixes(state)
    ]
    if any(re.search(r"res2_0_branch2a|conv1_w$", name) for state in containers.values() for name in state):
        return (
            f"{where}: has Caffe2 names (MSRA's R-50.pkl): it wants BGR images, std 1 and stride in the 1×1 "
            "convolution, which no torchvision ResNet has. Give it to Detectron2 as it is, with that input unit"
        )
    if found and family:
        return f"{where}: no ResNet by the scheme of family={family}; ResNets lie at {', '.join(found)}"
    if found:
        return (
            f"{where}: a ResNet lies at {', '.join(found)}, which is no known family's scheme. Name the family by "
            f"family=…, or re-save its state_dict alone; known: {', '.join(entry.name for entry in FAMILIES)}"
        )
    names = _list([name for state in containers.values() for name in state])
    return f"{where}: no ResNet in it; its tensors are {names}"


def _list(names: Any, shown: int = 6) -> str:
    words = [str(name) for name in names]
    return ", ".join(words[:shown]) + (f" … ({len(words)} in all)" if len(words) > shown else "") or "none"
