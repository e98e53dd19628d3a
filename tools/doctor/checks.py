"""The checks of `mochi doctor`. Each yields findings; none stops the others."""

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pretrain.runtime.machine import PROJECT_ROOT
from transfer import detectron2_compat

SMALLEST_FREE_GIB = 20.0
"""A ResNet-50 run keeps two checkpoints of about 0.6 GiB and its detectors 0.4 GiB each."""
TESTED = {"torch": "2.15.0", "torchvision": "0.29.2"}
"""The versions that the tests ran with (pyproject.toml, constraint-dependencies)."""
OLDEST = {"numpy": (2, 0), "pillow": (11,), "pycocotools": (2, 0, 8), "fvcore": (0, 1, 5)}
"""The minimum versions in pyproject.toml."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row of the doctor's table."""

    state: str
    """`fine`, `note` (works, with a restriction) or `problem` (must be fixed)."""
    what: str
    """The component checked."""
    found: str
    """Its version or condition."""
    remedy: str = ""
    """What to do about it; empty if nothing."""


def check_setup(*, data: str, out: str, slurm_needed: bool) -> list[Finding]:
    """Return the findings of every check, in the order in which to fix them.

    Args:
        data: a data root to check; empty: none.
        out: the folder whose disk is checked; need not exist.
        slurm_needed: whether missing Slurm or Submitit is a problem instead of a note.

    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _check_torch,
        _check_cuda,
        _check_packages,
        _check_detectron2,
        lambda: _check_slurm(slurm_needed),
        lambda: _check_disk(Path(out)),
        lambda: _check_data(data),
    ]
    return [finding for check in checks for finding in check()]


def _check_torch() -> Iterator[Finding]:
    for package, tested in TESTED.items():
        found = _find_version(package)
        same = found.split("+")[0] == tested
        yield Finding(
            state="fine" if same else "note",
            what=package,
            found=found or "not installed",
            remedy="" if same else f"tested with {tested}; `make setup` installs it",
        )
    try:
        torch.ops.torchvision.nms  # noqa: B018 (the lookup is the check)
    except (AttributeError, RuntimeError):
        import torchvision  # registers the operators; heavy

        if not hasattr(torch.ops.torchvision, "nms"):
            yield Finding(
                state="problem",
                what="torchvision operators",
                found=f"torchvision {torchvision.__version__} has no compiled operators for torch {torch.__version__}",
                remedy="install matching versions: `make setup` (a +cpu torch breaks PyPI's torchvision)",
            )


def _check_cuda() -> Iterator[Finding]:
    driver = ", ".join(
        dict.fromkeys(_run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).split())
    )
    built = torch.version.cuda or "none"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding(state="fine", what="CUDA", found=f"{built}: {names}")
        known = bool(driver)
        remedy = "" if known else "put nvidia-smi on the PATH: the names of the GPUs are recorded with it"
        found = driver or "nvidia-smi is missing or failed"
        yield Finding(state="fine" if known else "note", what="driver", found=found, remedy=remedy)
    elif driver:
        yield Finding(
            state="problem",
            what="driver",
            found=f"{driver}, but torch (built for CUDA {built}) finds no usable GPU",
            remedy="update the driver to one that supports this CUDA version (`nvidia-smi` shows the newest), "
            "install torch's CUDA build (`make setup`), or unset CUDA_VISIBLE_DEVICES if it hides the GPUs",
        )
    else:
        remedy = "sufficient for the digits; full-size training needs a GPU that `nvidia-smi` lists"
        yield Finding(
            state="note", what="CUDA", found=f"no GPU on this machine (torch built for CUDA {built})", remedy=remedy
        )
    yield _check_nccl(needed=torch.cuda.device_count() > 1)


def _check_nccl(*, needed: bool) -> Finding:
    there = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return Finding(
        state="fine" if there else "problem" if needed else "note",
        what="NCCL",
        found=".".join(map(str, torch.cuda.nccl.version())) if there else "not in this build of torch",  # type: ignore[no-untyped-call]
        remedy="" if there else "required for several GPUs: install torch's CUDA build (`make setup`)",
    )


def _check_packages() -> Iterator[Finding]:
    for package, oldest in OLDEST.items():
        found = _find_version(package)
        numbers = tuple(int(part) for part in found.split(".")[: len(oldest)] if part.isdigit())
        good = bool(found) and numbers >= oldest
        yield Finding(
            state="fine" if good else "problem",
            what=package,
            found=found or "not installed",
            remedy="" if good else f"needs {'.'.join(map(str, oldest))} or newer: run `make setup`",
        )


def _check_detectron2() -> Iterator[Finding]:
    if not detectron2_compat.is_installed():
        yield Finding(state="problem", what="Detectron2", found="not installed", remedy=detectron2_compat.INSTALL_HINT)
        return
    compiled = "compiled" if detectron2_compat.is_compiled() else "Python files only, enough for R-CNN"
    found = _find_version("detectron2") or f"{_find_version('pb1-detectron2')} (bundled)"
    try:
        importlib.import_module("detectron2.modeling")
    except Exception as error:  # any failure is a finding
        yield Finding(
            state="problem",
            what="Detectron2",
            found=f"{found}, but importing it fails: {type(error).__name__}: {error}",
            remedy="remove it and run `make setup`; if that does not help, open an issue with this line",
        )
        return
    yield Finding(state="fine", what="Detectron2", found=f"{found}, {compiled}")
    shadow = PROJECT_ROOT / "tools"
    samples = Path(importlib.import_module("detectron2").__file__ or "").parent.parent / "tools"
    if samples.is_dir() and samples != shadow:
        yield Finding(
            state="problem",
            what="package tools",
            found=f"Detectron2's sample scripts in {samples} shadow this project's commands",
            remedy=f"delete {samples} (Detectron2 itself does not use it)",
        )


def _check_slurm(needed: bool) -> Iterator[Finding]:
    bad = "problem" if needed else "note"
    submitit = _find_version("submitit")
    yield Finding(
        state="fine" if submitit else bad,
        what="Submitit",
        found=submitit or "not installed",
        remedy="" if submitit else "`make setup`",
    )
    sbatch = _run(["sbatch", "--version"])
    if not sbatch:
        yield Finding(
            state=bad,
            what="Slurm",
            found="sbatch failed (no slurm.conf?)" if shutil.which("sbatch") else "no sbatch on the PATH",
            remedy="submit from a login node of the cluster, or set SLURM_CONF to its slurm.conf; local chains do not "
            "need Slurm",
        )
        return
    answers = _run(["squeue", "--version"]) and _run(["sinfo", "--noheader", "--format=%P"])
    yield Finding(
        state="fine" if answers else bad,
        what="Slurm",
        found=f"{sbatch}, partitions: {' '.join(answers.split())}"
        if answers
        else f"{sbatch}, but the controller does not respond",
        remedy="" if answers else "`scontrol ping` must report UP; contact the cluster's administrators",
    )


def _check_disk(folder: Path) -> Iterator[Finding]:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free_gib = shutil.disk_usage(existing).free / 2**30
    enough = free_gib >= SMALLEST_FREE_GIB
    yield Finding(
        state="fine" if enough else "note",
        what=f"disk under {folder}",
        found=f"{free_gib:.0f} GiB free",
        remedy=""
        if enough
        else f"a full-size chain needs {SMALLEST_FREE_GIB:.0f} GiB: set runs= (chain) or out= (run) to a larger disk",
    )
    try:
        probe = existing / ".mochi-write-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        yield Finding(
            state="problem", what=f"disk under {folder}", found=str(error), remedy=f"make {existing} writable"
        )


def _check_data(data: str) -> Iterator[Finding]:
    if not data:
        return
    root = Path(data)
    layouts = {
        "VOC2007": "VOC2007/JPEGImages",
        "VOC2012": "VOC2012/JPEGImages",
        "COCO": "coco/annotations/instances_train2017.json",
        "ImageNet": "train",
    }
    found = [name for name, path in layouts.items() if (root / path).exists()]
    if (root / "imagenet" / "train").exists():
        found.append("ImageNet (under imagenet/)")
    own = not found and root.is_dir() and any(root.iterdir())
    remedies = {
        "fine": "`python -m tools.check_data ROOT` counts and checks them",
        "note": "own data sets are checked by `python -m tools.check_data ROOT config=FILE`, and by a chain's plan",
        "problem": "`python -m tools.data.fetch_data --help` shows how to get VOC and COCO; "
        "`python -m tools.make_digits ROOT` makes the digits",
    }
    state = "fine" if found else "note" if own else "problem"
    yield Finding(
        state=state,
        what=f"data under {data}",
        found=", ".join(found) or "none of VOC2007/, VOC2012/, coco/, train/",
        remedy=remedies[state],
    )


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _run(words: list[str]) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
