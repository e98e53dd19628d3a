"""Describe the provenance of a result: machine, package versions and commit."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The folder with pretrain/, transfer/, tools/ and configs/: a checkout, or the code that a chain exported."""


@cache
def describe_machine() -> dict[str, Any]:
    """Return host, CPU, GPU and package versions as JSON values."""
    import torch  # heavy: commands that only print a plan must start quickly

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "host": platform.node(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "detectron2": _version("detectron2") or _version("pb1-detectron2"),
        "numpy": _version("numpy"),
    }


def name_machine() -> str:
    """Return a short name of the machine for tables: its GPUs, or its CPU and number of cores."""
    machine = describe_machine()
    return ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['cores']} cores"


@cache
def read_commit() -> str:
    """Return the commit of the source tree, with "+" if tracked files are modified; "unknown" outside a checkout.

    The environment variable MOCHI_COMMIT, which chains set for exported code, takes precedence.
    """
    if name := os.environ.get("MOCHI_COMMIT"):
        return name

    def ask_git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        commit = ask_git("rev-parse", "HEAD")
        return commit + ("+" if ask_git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
