"""The tables of docs/benchmarks.md, from the records that the benchmarks wrote."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.storage import read_json

RECORDS = PROJECT_ROOT / "tools" / "benchmarks" / "records"
MEANINGS = {
    "fused_vs_moco": "MoCHi's head, fused form: time over MoCo-v2's reference loss",
    "fused_vs_naive": "fused form: time over a MoCHi that builds every mix",
    "plain_vs_moco": "plain form (through autograd): time over MoCo-v2's reference loss",
    "plain_vs_naive": "plain form: time over a MoCHi that builds every mix",
    "approximate_vs_moco": "fused form with approximate top N: time over MoCo-v2's reference loss",
    "approximate_vs_naive": "fused form with approximate top N: time over a MoCHi that builds every mix",
    "cpu_jpeg": "two views of JPEG files, everything on the CPU: speed over PIL and torchvision",
    "crops_jpeg": "two views of JPEG files, colours left to the device: speed over PIL and torchvision",
    "cpu_cache": "two views from the packed cache, everything on the CPU: speed over PIL and torchvision",
    "crops_cache": "two views from the packed cache, colours left to the device: speed over PIL and torchvision",
    "moco_vs_reference": "a MoCo-v2 step, ResNet-50, 64 px, batch 16: speed over the reference's",
    "mochi_vs_moco": "a MoCHi step: speed over our MoCo-v2 step",
    "detector_step": "a training step of a digits-sized C4 detector: time over plain Detectron2's",
    "voc": "VOC AP of 4,952 images × 100 detections: speed over Detectron2's evaluator",
    "coco_bbox": "COCO box AP of 5,000 images × 100 detections: speed over pycocotools",
    "coco_segm": "COCO mask AP: speed over pycocotools",
    "mask_encode": "masks pasted and encoded: speed over Detectron2's way",
}
"""Row of a record, without its batch → what was measured; other rows go by their name."""
RATIOS = ("speedup", "time_ratio", "ratio")
COMMANDS = {
    "mixing": "benchmark_mixing",
    "views": "benchmark_views",
    "training": "benchmark_training",
    "detector": "benchmark_detector",
    "evaluation": "benchmark_evaluation",
}
"""Beginning of a record's name → the command that wrote it."""


def render_benchmarks(records: Path = RECORDS) -> str:
    """Return a table per benchmark and machine: median ratio, its range, the number of rounds."""
    parts = []
    for path in sorted(records.glob("*.json")):
        values = read_json(path)
        if rows := list(_list_rows(values.get("rows", {}))):
            parts.append("\n".join([*_introduce(path, values), *rows]))
    return "\n\n".join(parts) + "\n"


def render_faults(records: Path = RECORDS) -> str:
    """Return a table of the fault campaigns: what was injected, what was lost."""
    lines = ["| record | faults | chains finished | steps lost beyond a checkpoint | wrong verdicts | weights |"]
    lines.append("|---|---|---|---|---|---|")
    for path in sorted(records.glob("faults_*.json")):
        values = read_json(path)
        same = "identical" if values["identical_weights"] else "not identical"
        finished = f"{values['finished']} of {values['chains']}"
        lost = values["steps_lost_beyond_checkpoint"]
        lines.append(
            f"| `{path.name}` | {values['faults']} | {finished} | {lost} | {values['wrong_verdicts']} | {same} |"
        )
    return "\n".join(lines) + "\n"


def _introduce(path: Path, values: Mapping[str, Any]) -> Iterator[str]:
    command = COMMANDS.get(path.stem.partition("_")[0])
    yield f"### {path.stem.replace('_', ' ')}"
    yield ""
    run = f"`python -m tools.benchmarks.{command}`, " if command else ""
    yield f"{run}{describe_machine(values.get('machine', {}))}; record `{path.name}`{_say_commit(values)}."
    yield ""
    yield "| what | median ratio | range | rounds |"
    yield "|---|---|---|---|"


def describe_machine(machine: Mapping[str, Any]) -> str:
    """Return the machine of a record in words: processor, cores, GPUs, torch."""
    gpus = ", ".join(map(str, machine.get("gpus") or [])) or "no GPU"
    processor, cores = machine.get("cpu", "unknown processor"), machine.get("cores", "?")
    return f"{processor}, {cores} cores, {gpus}, torch {machine.get('torch', '?')}"


def _say_commit(values: Mapping[str, Any]) -> str:
    commit = str(values.get("commit", ""))
    return f", commit {commit[:10]}{' with changes' if commit.endswith('+') else ''}" if commit else ""


def _list_rows(rows: Any) -> Iterator[str]:
    named = rows.items() if isinstance(rows, Mapping) else [(row.get("name", ""), row) for row in rows]
    for name, row in named:
        ratio = next((row[key] for key in RATIOS if isinstance(row.get(key), (int, float))), None)
        if ratio is None or not {"low", "high", "rounds"} <= row.keys():
            continue
        extra = f"; memory {row['memory_ratio']:.2f}×" if "memory_ratio" in row else ""
        spread = f"{_say(row['low'])} to {_say(row['high'])}"
        yield f"| {describe_row(name)}{extra} | {_say(ratio)}× | {spread} | {row['rounds']} |"


def describe_row(name: str) -> str:
    """Return what a row of a record measured."""
    stem, _, batch = name.rpartition("_b")
    if stem and batch.isdigit():
        return f"{MEANINGS.get(stem, stem.replace('_', ' '))}, batch {batch}"
    return MEANINGS.get(name, name.replace("_", " "))


def _say(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.2f}"
