"""Write a commented first chain file for given checkpoints, data and cluster."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.command_line import UsageError, split_arguments
from pretrain.runtime.setting_docs import write_json_schema
from pretrain.runtime.settings import SettingsError, read_settings
from pretrain.runtime.storage import write_text
from tools.chain.plan.config import ChainConfig
from tools.settings.list_settings import main as list_settings
from transfer.results.seeds import method_of
from transfer.weights.sources.remote_weights import is_remote

SCHEMA_NAME = "chain.schema.json"


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Options of `chain init`."""

    out: str = "chain.yaml"
    """The file to write."""
    weights: tuple[str, ...] = ()
    """Checkpoints to compare, files or remote names (zoo:, hf://, https://); NAME:FILE names one, else the file's name
    does."""
    pretrain: tuple[str, ...] = ()
    """Configs of encoders to pretrain, instead of or beside `weights`."""
    data: str = ""
    """Root of the data sets; empty: the embedded digits."""
    slurm: str = ""
    """PARTITION:ACCOUNT:GPUS; empty: this machine."""
    seeds: int = 3
    """Measurements of each backbone, and pretrainings of each method."""


PREFERRED = ("teacher", "query", "student", "key")
"""Branches in order of preference, if a checkpoint has several: first the one its authors evaluate (DINO's teacher)."""
PROTOCOLS = {
    "voc": ("VOC2007", "kind: detector, config: configs/transfer/voc_c4_24k_moco.yaml", "Faster R-CNN on VOC"),
    "coco": ("coco", "kind: detector, config: configs/transfer/coco_c4_1x_moco.yaml", "Mask R-CNN on COCO"),
    "linear": ("imagenet", "kind: linear, config: configs/transfer/linear_in1k.yaml", "linear classifier, ImageNet"),
    "knn": ("imagenet", "kind: knn, config: configs/transfer/knn_in1k.yaml", "nearest neighbours, ImageNet"),
}
"""Protocol → the folder it needs below the data root, its entry, its description."""
DIGITS = {
    "voc": ("", "kind: detector, config: configs/transfer/voc_c4_digits.yaml", "Faster R-CNN on the digits"),
    "knn": ("", "kind: knn, config: configs/transfer/knn_digits.yaml", "nearest neighbours on the digits"),
}


def begin(arguments: Sequence[str]) -> int:
    """Write the chain file and its schema; print the next command."""
    _, overrides = split_arguments(arguments, [])
    listed = [_as_list(word) for word in overrides]
    settings = read_settings(Beginning, None, listed)
    out = Path(settings.out)
    if out.exists():
        raise ValueError(f"{out}: already exists; give out=ANOTHER.yaml, or remove it")
    text = "\n".join(write_chain(settings)) + "\n"
    write_text(out.with_name(SCHEMA_NAME), write_json_schema(ChainConfig, "A chain of stages"))
    write_text(out, text)
    print(f"wrote {out} and, for editors, {out.with_name(SCHEMA_NAME)}\nnext: mochi chain plan {out}")
    return 0


def show_keys(arguments: Sequence[str]) -> int:
    """Print the keys of a chain file, those that contain a word, or their JSON schema."""
    return list_settings(["chain", *arguments])


def write_chain(settings: Beginning) -> Iterator[str]:
    """Yield the lines of a chain file with a comment for each part."""
    yield f"# yaml-language-server: $schema={SCHEMA_NAME}"
    yield "# What is compared, how it is measured, where it runs. All keys: mochi chain keys"
    yield from ("", "# Root of VOC2007, VOC2012, coco and imagenet; without it, the embedded digits are generated.")
    yield f"data: {{root: {_quote(str(Path(settings.data).resolve()))}}}" if settings.data else "data: {}"
    yield from (
        "",
        "# One line per backbone: `weights` of any family, or `pretrain` with a config; `seeds` of a pretraining.",
    )
    yield "backbones:"
    yield from _write_backbones(settings)
    yield from ("", "# Every backbone is measured by each of these, once per seed.", "protocols:")
    yield from _write_protocols(settings)
    yield f"seeds: {list(range(settings.seeds))}"
    yield from _write_machine(settings)


def _write_backbones(settings: Beginning) -> Iterator[str]:
    seeds = list(range(settings.seeds))
    named = [_name_weights(entry) for entry in settings.weights]
    twice = {name for name, _ in named if [other for other, _ in named].count(name) > 1}
    if twice:
        raise UsageError(f"two checkpoints would be called {', '.join(sorted(twice))}; write NAME:FILE for each")
    for name, path in named:
        if is_remote(path):
            yield f"  {_quote(name)}: {{weights: {_quote(path)}}}  # fetched when the stage runs"
            continue
        if not Path(path).is_file():
            raise UsageError(f"weights: {path} does not exist")
        words, comment = _look_into(path)
        extra = f", set: [{', '.join(words)}]" if words else ""
        yield f"  {_quote(name)}: {{weights: {_quote(str(Path(path).resolve()))}{extra}}}  # {comment}"
    for config in settings.pretrain:
        yield f"  {_quote(Path(config).stem)}: {{pretrain: {_quote(config)}, seeds: {seeds}}}"
    if not named and not settings.pretrain:
        config = "mochi_r50_in1k" if settings.data else "mochi_r50_digits"
        yield f"  mochi: {{pretrain: configs/pretrain/{config}.yaml, seeds: {seeds}}}"
    random = "random_r50" if settings.data else "random_r50_digits"
    yield f"  random: {{pretrain: configs/pretrain/{random}.yaml, seeds: {seeds}}}  # the floor of every comparison"
    yield "  # moco_v2: {weights: moco_v2_800ep_pretrain.pth.tar}  # a baseline to compare with"


def _look_into(path: str) -> tuple[list[str], str]:
    """Return the options with which a checkpoint converts, and its description."""
    from transfer.weights.backbone import read_backbone  # heavy: torch

    refusals = []
    for branch in (None, *PREFERRED):
        try:
            found = read_backbone(path, branch=branch)
        except ValueError as error:
            refusals.append(str(error))
            continue
        words = [] if branch is None else [f"branch={branch}"]
        return words, f"ResNet-{found.depth}, {found.family}, {found.branch} branch"
    raise ValueError(refusals[0])


def _write_protocols(settings: Beginning) -> Iterator[str]:
    table = PROTOCOLS if settings.data else DIGITS
    there = {name for name, (folder, *_) in table.items() if (Path(settings.data) / folder).is_dir()}
    for name, (folder, entry, meaning) in table.items():
        active = name in (there or {"voc"})
        lack = "" if active else f"; needs {folder}/ in the data root"
        yield f"  {'' if active else '# '}{name}: {{{entry}}}  # {meaning}{lack}"


def _write_machine(settings: Beginning) -> Iterator[str]:
    yield ""
    if not settings.slurm:
        yield "# backend: slurm        # on a cluster; `resources` then sets what a job requests"
        yield "resources:"
        yield "  default: {cpus: 4}"
        return
    partition, account, gpus = _split_slurm(settings.slurm)
    yield "backend: slurm"
    yield "# Resources of a job: by kind (pretrain, detector, linear, knn, convert), protocol or stage, over default."
    yield "# time_min is the limit of one job: a stage that needs longer resumes in the next. hours: your estimate, for"
    yield "# the plan's GPU-hours until a rate has been measured."
    yield "resources:"
    where = f"partition: {_quote(partition)}, account: {_quote(account)}"
    yield f"  default: {{{where}, cpus: 8, mem_gb: 64, time_min: 240}}"
    yield f"  detector: {{gpus: {gpus}, time_min: 720}}"
    yield f"  pretrain: {{gpus: {gpus}, time_min: 1440}}"


def _split_slurm(text: str) -> tuple[str, str, int]:
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isdigit():
        raise UsageError(f"slurm={text}: expected PARTITION:ACCOUNT:GPUS, such as gpu:project:4")
    return parts[0], parts[1], int(parts[2])


def _name_weights(entry: str) -> tuple[str, str]:
    name, sign, path = entry.partition(":")
    if sign and "/" not in name and not is_remote(entry):
        return name, path
    stem = re.split("[/:]", entry.partition("#")[0] if is_remote(entry) else entry)[-1].partition(".")[0]
    return method_of(stem), entry


def _as_list(word: str) -> str:
    """Return weights=a.pth as weights=[a.pth]: a single checkpoint needs no brackets."""
    key, _, value = word.partition("=")
    one = key in ("weights", "pretrain") and not value.startswith("[")
    return f'{key}=["{value}"]' if one else word


def _quote(text: str) -> str:
    plain = text.replace("/", "").replace("_", "").replace("-", "").replace(".", "")
    if text.strip() != text or not text:
        raise SettingsError(f"{text!r}: expected a name or path without surrounding spaces")
    return text if plain.isalnum() and not text[0].isdigit() and text[0] not in "-." else f"'{text}'"
