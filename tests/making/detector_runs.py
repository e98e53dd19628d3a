"""Inputs of the detector tests: small digits, converted random backbones, short schedules of the digits protocols."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torchvision

from pretrain.runtime.machine import PROJECT_ROOT
from tools.make_digits import main as make_digits
from transfer.weights.convert import convert

CONFIGS = PROJECT_ROOT / "configs" / "transfer"
SHORT = [
    "SOLVER.MAX_ITER=4",
    "SOLVER.STEPS=(3,)",
    "SOLVER.IMS_PER_BATCH=2",
    "SOLVER.CHECKPOINT_PERIOD=1",
    "TEST.PRECISE_BN.NUM_ITER=2",
    "RUN.LOG_EVERY_STEPS=1",
    "RUN.DRAW_IMAGES=1",
    "INPUT.MIN_SIZE_TRAIN=[48,64]",
    "INPUT.MIN_SIZE_TEST=48",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=8",
    "MODEL.RPN.POST_NMS_TOPK_TEST=8",
    "TEST.DETECTIONS_PER_IMAGE=8",
]
SMALL_RESNET = ["MODEL.RESNETS.DEPTH=18", "MODEL.RESNETS.RES2_OUT_CHANNELS=64"]


def make_small_digits(folder: Path) -> Path:
    counts = (
        "imagenet_train=10 imagenet_val=10 voc2007_trainval=6 voc2007_test=3 voc2012_trainval=6 coco_train=8 coco_val=3"
    )
    make_digits([str(folder), *counts.split()])
    return folder


def make_backbone(folder: Path, depth: int, seed: int = 0) -> Path:
    torch.manual_seed(depth + seed)
    source, output = folder / f"r{depth}.pth", folder / f"r{depth}.pkl"
    torch.save(getattr(torchvision.models, f"resnet{depth}")().state_dict(), source)
    convert(source, output)
    return output


def command_of(config: str, weights: Path, data: Path, out: Path, *more: str) -> list[str]:
    words = [str(CONFIGS / config), str(weights), f"out={out}", "backbone=test", "seed=3", f"data={data}"]
    return [*words, *SHORT, *more]


def start(words: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tools.finetune_detector", *words],
        cwd=PROJECT_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
