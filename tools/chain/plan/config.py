"""What a chain file says: data, backbones, protocols, seeds, own stages, resources, budgets."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime.setting_types import find_near
from pretrain.runtime.settings import read_settings
from tools.chain.plan.axes import find_axis_mistakes
from tools.chain.plan.resources import Resources, find_line_breaks, find_odd_labels, find_unknown_labels
from transfer.results.question import Controls, find_question_mistakes

KINDS = ("detector", "linear", "knn", "command")
Mistake = tuple[tuple[str, ...], str]
"""The names that lead to a setting, and a sentence about it."""
HIDDEN = ("Cc", "Cf", "Cs")
"""Unicode's control, format and surrogate characters."""
LONGEST_NAME = 200
"""Bytes of a name: file names hold 255, and a key and endings are added."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where the images are: a folder that exists, or the embedded digits made by a first stage."""

    root: str = ""
    """Folder with the data sets; empty: make the embedded digits."""
    make: tuple[str, ...] = ()
    """key=value words for tools.make_digits; used when `root` is empty."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One encoder under comparison: pretrained by a stage of this chain, or a checkpoint that exists."""

    pretrain: str = ""
    """Config of tools.pretrain_encoder."""
    seeds: tuple[int, ...] = ()
    """Pretrain once per seed (run.seed), as NAME@SEED; each is measured by every protocol, and all are replications of
    one method. Empty: once, with the config's seed."""
    weights: str = ""
    """A checkpoint of any family that tools.convert_checkpoint reads; instead of `pretrain`."""
    set: tuple[str, ...] = ()
    """key=value words: for tools.pretrain_encoder, or for tools.convert_checkpoint beside `weights`."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One measurement of every backbone."""

    kind: str = field(default="detector", metadata={"choices": KINDS})
    """detector, linear, knn or command."""
    config: str = ""
    """Config of the kind's tool."""
    set: tuple[str, ...] = ()
    """key=value words for the tool; {data} and {backbone} are filled in."""
    command: tuple[str, ...] = field(default=(), metadata={"shell": True})
    """Words of a stage of your own (kind command); {weights} {backbone} {seed} {out} {data} {python} are filled in."""
    seeds: tuple[int, ...] | None = None
    """Instead of the chain's seeds."""
    backbones: tuple[str, ...] = ()
    """Only these: a backbone (all its seeds) or one seed (NAME@SEED); empty: all."""


@dataclass(frozen=True, kw_only=True)
class OwnStage:
    """A stage of your own that belongs to no backbone."""

    command: tuple[str, ...] = field(default=(), metadata={"shell": True})
    """Its words; {out} {data} {python} {chain} {stage:NAME} (the folder of another stage) are filled in."""
    after: tuple[str, ...] = ()
    """Stages that must be done first; those named by {stage:NAME} need no mention."""
    outputs: tuple[str, ...] = ()
    """Files, relative to {out}, that must exist at the end."""
    always: bool = False
    """Run when the stages before it have ended, well or not."""
    seeds: tuple[int, ...] = ()
    """Run once per seed, as NAME-seed0 and so on, with {seed} filled in."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The stage that looks at all encoders side by side; no config: no such stage."""

    config: str = ""
    """Config of tools.analyse_encoder."""
    set: tuple[str, ...] = ()
    """key=value words for it."""


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Who is told when the whole chain is done, failed or blocked: a last stage, here or as a job."""

    command: tuple[str, ...] = field(default=(), metadata={"shell": True})
    """Words of a command; the message follows as one more word."""
    url: str = ""
    """Address that takes a POST of JSON with the keys text, chain, state, counts, failed."""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """When a stage that does not get on is given up."""

    attempts: int = field(default=100, metadata={"least": 1})
    """Starts of one stage."""
    same_step: int = field(default=5, metadata={"least": 1})
    """Starts in a row from the same step."""
    min_free_gb: float = field(default=1.0, metadata={"least": 0})
    """Least free space to start with; or twice the newest checkpoint, if that is more."""
    retry_oom: bool = False
    """Try a stage that ran out of a GPU's memory once more with fewer images at a time."""


@dataclass(frozen=True, kw_only=True)
class LocalBackend:
    """How stages share this machine."""

    slots: int = field(default=0, metadata={"least": 0})
    """Most stages at a time; 0: one a GPU or, on a machine without, as many as the CPUs they ask for allow."""
    slice_min: float = field(default=0.0, metadata={"least": 0})
    """Stop and resume every stage after so many minutes (exercises the resume path); 0: never."""


@dataclass(frozen=True, kw_only=True)
class SlurmBackend:
    """What the site allows."""

    kill_on_invalid_dep: bool = True
    """Let Slurm cancel what waits for a failed stage; some sites forbid it, then the next submit does it."""
    margin_s: int = field(default=180, metadata={"least": 0})
    """Stop this long before the job's time limit; a checkpoint must fit."""
    signal_delay_s: int = field(default=90, metadata={"least": 1})
    """Slurm's warning signal this long before the limit."""
    max_jobs: int = field(default=500, metadata={"least": 1})
    """Most jobs of this chain in the queue; the rest go with the next submit."""
    pause_s: float = field(default=0.0, metadata={"least": 0})
    """Pause between two sbatch calls, for sites that count them."""
    arrays: bool = True
    """Submit the seeds of one measurement as one job array."""
    max_bad_hosts: int = field(default=4, metadata={"least": 0})
    """Leave out at most so many hosts, and half of a partition, on which attempts died twice without a step."""


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """One chain."""

    name: str = ""
    """Folder below `runs`; empty: the file's name."""
    runs: str = "runs"
    """Where chains live."""
    backend: str = field(default="local", metadata={"choices": ("local", "slurm")})
    """local or slurm; a chain may change it half-way."""
    data: DataSource = field(default_factory=DataSource)
    """Where the images are."""
    backbones: dict[str, Backbone] = field(default_factory=dict)
    """What is compared, by name."""
    protocols: dict[str, Protocol] = field(default_factory=dict)
    """How each of them is measured, by name."""
    seeds: tuple[int, ...] = (0,)
    """Of the measurements (fine-tuning, linear training); those of the pretraining stand at each backbone."""
    analyse: Analysis = field(default_factory=Analysis)
    """The stage that looks at all encoders side by side."""
    stages: dict[str, OwnStage] = field(default_factory=dict)
    """Commands of your own, by name."""
    report: bool = True
    """End with tools.write_report."""
    compare: tuple[list[str], ...] = ()
    """Pairs of backbones, [[mochi, moco_v2], …]: is the first better than the second? Empty: see baseline."""
    baseline: str = ""
    """The backbone that all others are compared with; empty: the first. Instead of compare."""
    controls: Controls = field(default_factory=Controls)
    """The backbones between which the others must lie: {floor: random, ceiling: supervised}."""
    delta: float | None = None
    """Percent points within which two backbones count as equivalent; empty: the published noise, or 0.5."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Axes of a sweep: "BACKBONE:key" or "PROTOCOL:key" to the values; see tools/chain/plan/sweep.py."""
    notify: Notify = field(default_factory=Notify)
    """Who is told of the end of the chain."""
    budgets: Budgets = field(default_factory=Budgets)
    """When a stage that does not get on is given up."""
    local: LocalBackend = field(default_factory=LocalBackend)
    """How stages share this machine."""
    slurm: SlurmBackend = field(default_factory=SlurmBackend)
    """What the site allows."""
    resources: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"part": Resources})
    """What a job asks for: "default", then by kind (data, pretrain, convert, detector, …), protocol, stage."""


def read_chain(path: str | Path, overrides: tuple[str, ...] = ()) -> ChainConfig:
    """Return the chain in the YAML file at `path` with key=value overrides; all mistakes in one SettingsError."""
    return read_settings(ChainConfig, path, overrides, find_mistakes)


def find_mistakes(config: ChainConfig) -> Iterator[Mistake]:
    """Yield what is wrong with a chain beyond the types of its settings, with the place of each mistake."""
    for name, backbone in config.backbones.items():
        yield from ((("backbones", name), text) for text in _check_backbone(name, backbone))
    for name, protocol in config.protocols.items():
        yield from ((("protocols", name), text) for text in _check_protocol(name, protocol, list(config.backbones)))
    for name, stage in config.stages.items():
        if not stage.command:
            yield ("stages", name), f"stages.{name} has no command"
    for names, seeds in _seeds_in(config):
        if text := _check_seeds(seeds):
            yield names, f"{'.'.join(names)}: {text}"
    for label, asked in config.resources.items():
        yield from ((("resources", label), text) for text in find_line_breaks(label, asked))
    known = [*config.protocols, *config.stages]
    for label in find_odd_labels(config.resources, known):
        yield from ((("resources", label), text) for text in find_unknown_labels({label: {}}, known))
    for axis, values in config.grid.items():
        owners = [*config.backbones, *config.protocols]
        yield from ((("grid", axis), text) for text in find_axis_mistakes(axis, values, owners))
    yield from _check_names(config)
    if config.notify.url and not config.notify.url.startswith(("http://", "https://")):
        yield ("notify", "url"), f"notify.url: expected an address that begins with https://, got {config.notify.url!r}"
    question = find_question_mistakes(config.compare, config.baseline, config.controls, config.delta, config.backbones)
    yield from (((key,), text) for key, text in question)
    if not config.backbones and not config.stages:
        yield (), "no backbones and no stages: nothing to do"


def _check_backbone(name: str, backbone: Backbone) -> Iterator[str]:
    if bool(backbone.pretrain) == bool(backbone.weights):
        yield f"backbones.{name} needs either pretrain (a config) or weights (a checkpoint)"
    if backbone.seeds and backbone.weights:
        yield (
            f"backbones.{name}.seeds: a checkpoint that exists has one seed; give each checkpoint of the method a "
            f"backbone of its own: {name}@0: {{weights: …}}, {name}@1: {{weights: …}}"
        )
    if backbone.seeds and "@" in name:
        yield f"backbones.{name}: names one seed (NAME@SEED) and lists seeds; write one of the two"
    if backbone.seeds and any(word.startswith("run.seed=") for word in backbone.set):
        yield f"backbones.{name}.set holds run.seed, which `seeds` sets; leave it out"


def _check_protocol(name: str, protocol: Protocol, backbones: list[str]) -> Iterator[str]:
    if protocol.kind == "command" and not protocol.command:
        yield f"protocols.{name} is of kind command and has no command"
    elif protocol.kind != "command" and not protocol.config:
        yield f"protocols.{name} has no config"
    methods = [entry.partition("@")[0] for entry in backbones]
    for choice in protocol.backbones:
        if choice not in backbones and choice.partition("@")[0] not in methods:
            near = find_near(choice, [*backbones, *methods])
            hint = f"did you mean {near}?" if near else f"there are: {', '.join(backbones) or 'none'}"
            yield f"protocols.{name}.backbones names {choice}, no backbone of the chain; {hint}"


def _seeds_in(config: ChainConfig) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    yield ("seeds",), config.seeds
    for part in ("backbones", "protocols", "stages"):
        yield from (((part, name, "seeds"), entry.seeds or ()) for name, entry in getattr(config, part).items())


def _check_seeds(seeds: tuple[int, ...]) -> str:
    if len(set(seeds)) < len(seeds):
        return f"a seed is given twice in {list(seeds)}; the same seed is the same run"
    return f"got {min(seeds)}; a seed is 0 or more" if min(seeds, default=0) < 0 else ""


def _check_names(config: ChainConfig) -> Iterator[Mistake]:
    """Yield each name that a terminal, a file system or a reader could not show as it is."""
    named: list[tuple[str, ...]] = [("name", config.name)]
    for part in ("backbones", "protocols", "stages"):
        named += [(part, name) for name in getattr(config, part)]
    for names in named:
        name = names[-1]
        if len(name.encode(errors="replace")) > LONGEST_NAME:
            yield names, f"{names[0]}: the name {name[:20]!r}… is longer than {LONGEST_NAME} bytes"
        hidden = sorted({sign for sign in name if unicodedata.category(sign) in HIDDEN and sign != "\n"})
        if hidden:
            signs = ", ".join(f"U+{ord(sign):04X}" for sign in hidden)
            yield names, f"{names[0]}: the name {name!a} holds characters that do not show ({signs}); leave them out"
