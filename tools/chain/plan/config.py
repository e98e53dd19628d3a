"""What a chain file says: data, backbones, protocols, seeds, own stages, resources, budgets."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime.settings import SettingsError, read_settings
from transfer.results.question import Controls, find_question_mistakes

KINDS = ("detector", "linear", "knn", "command")


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
    weights: str = ""
    """A checkpoint of any family that tools.convert_checkpoint reads; instead of `pretrain`."""
    set: tuple[str, ...] = ()
    """key=value words: for tools.pretrain_encoder, or for tools.convert_checkpoint beside `weights`."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One measurement of every backbone."""

    kind: str = "detector"
    """detector, linear, knn or command."""
    config: str = ""
    """Config of the kind's tool."""
    set: tuple[str, ...] = ()
    """key=value words for the tool; {data} and {backbone} are filled in."""
    command: tuple[str, ...] = ()
    """Words of a stage of your own (kind command); {weights} {backbone} {seed} {out} {data} {python} are filled in."""
    seeds: tuple[int, ...] | None = None
    """Instead of the chain's seeds."""
    backbones: tuple[str, ...] = ()
    """Only these; empty: all."""


@dataclass(frozen=True, kw_only=True)
class OwnStage:
    """A stage of your own that belongs to no backbone."""

    command: tuple[str, ...] = ()
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
class Budgets:
    """When a stage that does not get on is given up."""

    attempts: int = 100
    """Starts of one stage."""
    same_step: int = 5
    """Starts in a row from the same step."""
    min_free_gb: float = 1.0
    """Least free space to start with; or twice the newest checkpoint, if that is more."""
    retry_oom: bool = False
    """Try a stage that ran out of a GPU's memory once more with fewer images at a time (tools/chain/run/exhaustion.py)."""


@dataclass(frozen=True, kw_only=True)
class LocalBackend:
    """How stages share this machine."""

    slots: int = 0
    """Most stages at a time; 0: one a GPU or, on a machine without, as many as the CPUs they ask for allow."""
    slice_min: float = 0.0
    """Stop and resume every stage after so many minutes (exercises the resume path); 0: never."""


@dataclass(frozen=True, kw_only=True)
class SlurmBackend:
    """What the site allows."""

    kill_on_invalid_dep: bool = True
    """Let Slurm cancel what waits for a failed stage; some sites forbid it, then the next submit does it."""
    margin_s: int = 180
    """Stop this long before the job's time limit; a checkpoint must fit."""
    signal_delay_s: int = 90
    """Slurm's warning signal this long before the limit."""
    max_jobs: int = 500
    """Most jobs of this chain in the queue; the rest go with the next submit."""
    pause_s: float = 0.0
    """Pause between two sbatch calls, for sites that count them."""
    arrays: bool = True
    """Submit the seeds of one measurement as one job array."""
    max_bad_hosts: int = 4
    """Leave out at most so many hosts, and half of a partition, on which attempts died twice without a step."""


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """One chain."""

    name: str = ""
    """Folder below `runs`; empty: the file's name."""
    runs: str = "runs"
    """Where chains live."""
    backend: str = "local"
    """local or slurm; a chain may change it half-way."""
    data: DataSource = field(default_factory=DataSource)
    backbones: dict[str, Backbone] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    analyse: Analysis = field(default_factory=Analysis)
    stages: dict[str, OwnStage] = field(default_factory=dict)
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
    budgets: Budgets = field(default_factory=Budgets)
    local: LocalBackend = field(default_factory=LocalBackend)
    slurm: SlurmBackend = field(default_factory=SlurmBackend)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What a job asks for: "default", then by kind (data, pretrain, convert, detector, …), protocol, stage."""


def read_chain(path: str | Path, overrides: tuple[str, ...] = ()) -> ChainConfig:
    """Return the chain in the YAML file at `path` with key=value overrides; all mistakes in one SettingsError."""
    config = read_settings(ChainConfig, path, overrides)
    mistakes = [f"{path}: {text}" for text in _find_mistakes(config)]
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return config


def _find_mistakes(config: ChainConfig) -> list[str]:
    mistakes = []
    if config.backend not in ("local", "slurm"):
        mistakes.append(f"backend is {config.backend!r}; expected local or slurm")
    for name, backbone in config.backbones.items():
        if bool(backbone.pretrain) == bool(backbone.weights):
            mistakes.append(f"backbones.{name} needs either pretrain (a config) or weights (a checkpoint)")
    for name, protocol in config.protocols.items():
        if protocol.kind not in KINDS:
            mistakes.append(f"protocols.{name}.kind is {protocol.kind!r}; expected one of {', '.join(KINDS)}")
        elif protocol.kind == "command" and not protocol.command:
            mistakes.append(f"protocols.{name} is of kind command and has no command")
        elif protocol.kind != "command" and not protocol.config:
            mistakes.append(f"protocols.{name} has no config")
        if unknown := set(protocol.backbones) - set(config.backbones):
            mistakes.append(f"protocols.{name}.backbones names {', '.join(sorted(unknown))}, no backbone of the chain")
    mistakes += [f"stages.{name} has no command" for name, stage in config.stages.items() if not stage.command]
    mistakes += find_question_mistakes(config.compare, config.baseline, config.controls, config.delta, config.backbones)
    if not config.backbones and not config.stages:
        mistakes.append("no backbones and no stages: nothing to do")
    return mistakes
