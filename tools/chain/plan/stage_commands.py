"""Build the commands of a chain's stages: one pure function per kind.

Placeholders in braces are filled in when the stage starts: {out} its folder, {stage:NAME} another stage's, {chain} the
chain's, {code} the exported source, {python} the interpreter.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.chain.plan.config import Analysis, Backbone, OwnStage, Protocol
from transfer.results.seeds import method_of

CONVERTED = "backbone.pkl"
"""What a convert stage writes; its manifest lies beside it."""
ENCODER = "encoder.pt"
"""What a pretrain stage ends with."""
RESULT = "metrics.json"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A stage without its key."""

    name: str
    kind: str
    command: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    """Files below {out} that must exist at the end."""
    after: tuple[str, ...] = ()
    """Names of the stages before it; the plan adds those named by {stage:NAME} in the command."""
    configs: tuple[str, ...] = ()
    """Files whose content is part of the key."""
    always: bool = False
    """Run once the stages before it have ended, even if they failed."""
    array: str = ""
    """Stages with the same value differ only by seed and may become one job array."""
    protocol: str = ""
    """Name of a measurement's protocol."""
    backbone: str = ""
    """The backbone that it produces or measures."""
    is_light: bool = False
    """Minutes on a CPU: no GPU and a short limit, whatever the chain's "default" sets."""
    labels: tuple[str, ...] = ()
    """Labels of its resources; later ones take precedence; `list_labels` adds to them."""


def run_tool(module: str, *words: str) -> tuple[str, ...]:
    """Return the command that runs a project module."""
    return ("{python}", "-m", module, *words)


def setting(key: str, value: str) -> str:
    """Return key=value, quoted so that the config reader reads `value` as a string."""
    plain = re.fullmatch(r"[A-Za-z_][\w.+-]*", value) and value.lower() not in ("true", "false", "null", "yes", "no")
    return f"{key}={value if plain else json.dumps(value, ensure_ascii=False)}"


def make_data(words: tuple[str, ...]) -> Draft:
    """Return the stage that generates the embedded digits in {out}/digits."""
    command = run_tool("tools.make_digits", "{out}/digits", *words)
    return Draft(name="data", kind="data", command=command, outputs=("digits/digits.json",), labels=("data",))


def pretrain(name: str, backbone: Backbone, data: str, config: str, is_untrained: bool = False) -> Draft:
    """Return the stage that pretrains an encoder; `backbone.set` may override the data root.

    A random initialisation (`is_untrained`) does not use the chain's resources for pretraining.
    """
    words = [f"data.root={data}/imagenet", *backbone.set, "run.out={out}"]
    return Draft(
        name=f"pretrain-{name}",
        kind="pretrain",
        command=run_tool("tools.pretrain_encoder", config, *words),
        outputs=(ENCODER,),
        configs=(config,),
        backbone=name,
        is_light=is_untrained,
        labels=("initialise",) if is_untrained else ("pretrain",),
    )


def convert(name: str, backbone: Backbone, weights: str) -> Draft:
    """Return the stage that converts an encoder to Detectron2 weights, with a manifest."""
    source = weights or f"{{stage:pretrain-{name}}}/{ENCODER}"
    words = backbone.set if weights else ()
    return Draft(
        name=f"convert-{name}",
        kind="convert",
        command=run_tool("tools.convert_checkpoint", source, f"{{out}}/{CONVERTED}", *words),
        outputs=(CONVERTED, f"{CONVERTED}.manifest.json"),
        configs=(weights,) if weights else (),
        backbone=name,
        is_light=True,
        labels=("convert",),
    )


def measure(name: str, protocol: Protocol, backbone: str, seed: int | None, data: str) -> Draft:
    """Return one measurement of one backbone; `protocol.config` is already resolved."""
    stage_name = f"{name}-{backbone}" + ("" if seed is None else f"-seed{seed}")
    weights = f"{{stage:convert-{backbone}}}/{CONVERTED}"
    fill = _filler({"data": data, "backbone": backbone, "seed": str(seed or 0), "weights": weights})
    extra = tuple(fill(word) for word in protocol.set)
    about = ["out={out}", *([] if seed is None else [f"seed={seed}"]), setting("backbone", backbone)]
    if protocol.kind == "command":
        command = (*(fill(word) for word in protocol.command), *extra)
    elif protocol.kind == "detector":
        command = run_tool("tools.finetune_detector", protocol.config, weights, *about, f"data={data}", *extra)
    else:
        tool = {"linear": "tools.train_linear", "knn": "tools.classify_knn"}[protocol.kind]
        command = run_tool(tool, protocol.config, weights, *about, f"data={data}/imagenet", *extra)
    return Draft(
        name=stage_name,
        kind=protocol.kind,
        command=command,
        outputs=() if protocol.kind == "command" else (RESULT,),
        configs=() if protocol.kind == "command" else (protocol.config,),
        array="" if seed is None else f"{name}-{backbone}",
        protocol=name,
        backbone=backbone,
        is_light=protocol.kind == "knn" and data.startswith("{stage:"),  # the digits: a few hundred images
        labels=(protocol.kind,),
    )


def analyse(analysis: Analysis, backbones: Mapping[str, Backbone], data: str) -> Draft:
    """Return the stage that compares all encoders: this chain's with their projection heads, others as converted."""
    fill = _filler({"data": data})
    encoders = [
        f"{name}={{stage:pretrain-{name}}}/{ENCODER}"
        if backbone.pretrain
        else f"{name}={{stage:convert-{name}}}/{CONVERTED}"
        for name, backbone in backbones.items()
    ]
    words = [analysis.config, "out={out}", *map(fill, analysis.set), *encoders]
    return Draft(
        name="analyse",
        kind="analyse",
        command=run_tool("tools.analyse_encoder", *words),
        outputs=("analysis.json",),
        configs=(analysis.config,),
        labels=("analyse",),
    )


def own(name: str, stage: OwnStage, seed: int | None, data: str) -> Draft:
    """Return a user-defined stage."""
    fill = _filler({"data": data} | ({} if seed is None else {"seed": str(seed)}))
    return Draft(
        name=name if seed is None else f"{name}-seed{seed}",
        kind="command",
        command=tuple(map(fill, stage.command)),
        outputs=stage.outputs,
        after=stage.after,
        always=stage.always,
        array="" if seed is None else name,
        labels=tuple(dict.fromkeys(("command", name, name if seed is None else f"{name}-seed{seed}"))),
    )


def report(after: tuple[str, ...], question: tuple[str, ...] = ()) -> Draft:
    """Return the report stage, which runs once all others have ended, even if they failed.

    Args:
        after: the stages before it.
        question: options of tools.write_report; other options make another stage.

    """
    return Draft(
        name="report",
        kind="report",
        command=run_tool("tools.write_report", "{chain}", "out={chain}/report", *question),
        outputs=("../../report/summary.json",),
        after=after,
        always=True,
        is_light=True,
        labels=("report",),
    )


def notify(words: tuple[str, ...]) -> Draft:
    """Return the last stage, which sends the notification; a new receiver makes a new stage."""
    return Draft(
        name="notify",
        kind="notify",
        command=run_tool("tools.chain.notify_chain", "{chain}", *words),
        always=True,
        is_light=True,
        labels=("notify",),
    )


def list_labels(draft: Draft, owners: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels of a stage's resources, from general to specific: kind, protocol, backbone, name.

    Args:
        draft: the stage.
        owners: name of a sweep's variant → the backbone or protocol that it is a variant of.

    """
    backbones = _lineage(draft.backbone, owners)
    protocols = _lineage(draft.protocol, owners)
    named = [f"{first}-{second}" for first in protocols or (draft.kind,) for second in backbones]
    return tuple(dict.fromkeys((*draft.labels, *protocols, *named, *([draft.name] if protocols else []))))


def _lineage(name: str, owners: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names that a chain file may use for a backbone or protocol: owner in the grid, method, itself."""
    method = method_of(name)
    found = (owners.get(method) or owners.get(name), method, name)
    return tuple(dict.fromkeys(entry for entry in found if entry))


def fill_in(words: tuple[str, ...], values: dict[str, str]) -> list[str]:
    """Return the words with {out}, {python}, {code}, {chain} and {stage:NAME} replaced; other braces are kept."""
    return [_filler(values)(word) for word in words]


def stages_named_in(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the NAMEs of all {stage:NAME} in the words, each once, in order."""
    return tuple(dict.fromkeys(name for word in words for name in re.findall(r"\{stage:([^{}]+)\}", word)))


def find_file(name: str, places: list[Path]) -> Path | None:
    """Return the first existing file `name` names: absolute, or below one of `places`."""
    candidates = [Path(name), *(place / name for place in places)] if Path(name).is_absolute() else []
    candidates = candidates or [place / name for place in places]
    return next((path for path in candidates if path.is_file()), None)


def find_named_config(name: str, code: Path) -> Path | None:
    """Return the config of the project with this name (NAME or NAME.yaml); None when there is none."""
    if "/" in name:
        return None
    stem = name.removesuffix(".yaml")
    return next((path for path in sorted((code / "configs").rglob("*.yaml")) if path.stem == stem), None)


def _filler(values: dict[str, str]) -> Callable[[str], str]:
    known = re.compile(r"\{(" + "|".join(map(re.escape, values)) + r")\}")
    return lambda word: known.sub(lambda match: values[match[1]], word)
