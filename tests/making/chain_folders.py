"""Chain folders for the tests of the report, written with the functions that real stages use."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from pretrain.runtime.storage import append_json_line, write_json, write_text
from transfer.results.run_result import RunResult, write_result

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 160"><path d="M0 160L300 0" stroke="#000"/></svg>'
MACHINE = {
    "host": "node1",
    "cpu": "a processor",
    "cores": 2,
    "gpus": [],
    "python": "3.11",
    "torch": "2",
    "detectron2": "",
}


def write_stage(
    folder: Path, name: str, kind: str, *, attempts: int = 1, grid: dict[str, object] | None = None
) -> Path:
    stage = folder / "stages" / f"{name}-0123456789ab"
    stage.mkdir(parents=True)
    write_json(stage / "spec.json", {"name": name, "kind": kind, "command": ["x.yaml"], "grid": grid or {}})
    for number in range(1, attempts + 1):
        outcome = "done" if number == attempts else "yield"
        attempt = {"number": number, "job_id": "17", "host": "node1", "gpu": "", "seconds": 36.0, "outcome": outcome}
        write_json(stage / "attempts" / f"{number:04d}.json", attempt)
    write_json(stage / "DONE.json", {"outputs": {}})
    return stage


def write_manifest(stage: Path, epoch: int) -> None:
    """Write the manifest of a converted MoCHi checkpoint into a convert stage."""
    values = {
        "source": {"path": "encoder.pt", "sha256": "cd" * 32, "family": "moco", "branch": "query", "epoch": epoch},
        "output": {"path": "backbone.pkl", "sha256": "ab" * 32, "format": "detectron2", "tensors": 318},
        "depth": 50,
        "matched": 318,
        "expected": 318,
        "parity": {"res5": 0.0},
        "config": {"model": {"method": "moco"}, "mixing": {"n": 64, "s": 32, "s_prime": 16}},
    }
    write_json(stage / "backbone.pkl.manifest.json", values)


def write_detector(folder: Path, backbone: str, protocol: str, seed: int, metrics: dict[str, float]) -> Path:
    stage = write_stage(folder, f"{protocol}-{backbone}-{seed}".replace("@", "-"), "finetune", attempts=2)
    write_result(
        stage,
        RunResult(
            backbone=backbone,
            protocol=protocol,
            seed=seed,
            metrics=metrics,
            weights_sha256=hashlib.sha256(backbone.encode()).hexdigest(),
            commit="c0ffee",
            machine=MACHINE,
            seconds=36.0,
        ),
    )
    for step in range(1, 12):
        append_json_line(stage / "metrics.jsonl", {"step": step, "total_loss": 3.0 / step})
    (stage / "detections").mkdir()
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(stage / "detections" / "image_1.png")
    return stage


def write_chain(folder: Path, backbones: int = 2, seeds: int = 3) -> Path:
    """Write a finished chain of `backbones` backbones, the last named random, with `seeds` runs of each detector."""
    names = [f"mochi_{index}" if index else "mochi" for index in range(backbones - 1)] + ["random"]
    write_json(folder / "chain.json", {"name": "trial", "stages": []})
    for rank, name in enumerate(names):
        stage = write_stage(folder, f"pretrain-{name}", "pretrain")
        for step in range(1, 30):
            line = {"step": step, "epoch": step // 10, "loss": 7 - 0.1 * step, "accuracy": 2.0 * step}
            append_json_line(stage / "metrics.jsonl", line)
        for seed in range(seeds):
            level = 20.0 + 10 * (len(names) - rank) / len(names) + 0.1 * seed
            voc = {"AP": level, "AP50": level + 20, "AP75": level - 2}
            write_detector(folder, name, "voc-c4-digits@moco", seed, voc)
            write_detector(folder, name, "coco-c4-digits@moco", seed, {"box/AP": level, "mask/AP": level - 3})
        write_manifest(write_stage(folder, f"convert-{name}", "convert"), epoch=3)
    analyse = write_stage(folder, "analyse", "analyse")
    write_text(analyse / "hardness.svg", SVG)
    return folder
