"""Detect at the end of a log that memory ran out: on the GPU, on the host, or in a data loader's worker."""

import re
from collections.abc import Mapping
from pathlib import Path

PATTERNS = {
    "worker": (r"DataLoader worker \(pid", r"BrokenProcessPool", r"A worker process managed by the executor was"),
    "gpu": (
        r"\w*\.?OutOfMemoryError", r"CUDA out of memory", r"CUDA error: out of memory", r"HIP out of memory",
        r"CUBLAS_STATUS_ALLOC_FAILED", r"cudaErrorMemoryAllocation",
    ),
    "host": (
        r"^MemoryError\b", r"Cannot allocate memory", r"can't allocate memory", r"std::bad_alloc",
        r"Unable to allocate .* for an array", r"oom[-_]kill",
    ),
}  # fmt: skip
"""Kind → patterns of the last error in a log, from torch, NumPy, C++ and Slurm."""
LAST_ERROR = re.compile(r"^(?:\S*(?:Error|Exception|Killed|terminate called)\b|error: |slurmstepd: )", re.MULTILINE)
FEWER_AT_A_TIME: dict[str, tuple[str, ...]] = {
    "pretrain": ("engine.max_batch_per_rank=64",),
    "detector": ("batch_rule=accumulate", "divisor=2"),
    "linear": ("feature_batch=64",),
    "knn": ("feature_batch=64",),
}
"""Kind of a stage → the options with which it processes fewer images at a time on a GPU."""
KERNEL_COUNTS = Path("/proc/vmstat")


def find_exhausted(tail: str) -> str:
    """Return "gpu", "host" or "worker" if the last error of a log reports that its memory ran out; else "".

    An error that was caught and followed by another does not count.
    """
    starts = [match.start() for match in LAST_ERROR.finditer(tail)]
    last = tail[starts[-1] :] if starts else "\n".join(tail.splitlines()[-5:])
    kinds = (kind for kind, words in PATTERNS.items() if any(re.search(word, last, re.MULTILINE) for word in words))
    return next(kinds, "")


def advise(kind: str, exhausted: str, name: str) -> str:
    """Return the remedy, as a clause to append to an error.

    Args:
        kind: of the stage.
        exhausted: "gpu" or "host".
        name: of the stage.

    """
    if exhausted == "host":
        return f"the machine's memory ran out; request more (resources.{name}.mem_gb) or use fewer workers"
    words = " ".join(FEWER_AT_A_TIME.get(kind, ()))
    with_words = f"add {words} to `set` of its backbone or protocol" if words else "use smaller batches"
    retry = ", or set budgets.retry_oom=true, which retries once with it" if words else ""
    return f"the GPU's memory ran out; {with_words}{retry}"


def find_retry_words(spec: Mapping[str, object]) -> tuple[str, ...]:
    """Return the options for the one automatic retry after a GPU ran out of memory; none without budgets.retry_oom."""
    budgets = spec.get("budgets")
    asked = isinstance(budgets, Mapping) and budgets.get("retry_oom") is True
    return FEWER_AT_A_TIME.get(str(spec.get("kind")), ()) if asked else ()


def count_kernel_kills() -> int:
    """Return how many processes this machine's kernel has killed for lack of memory; 0 if it does not count them."""
    try:
        return int(re.findall(r"^oom_kill (\d+)", KERNEL_COUNTS.read_text(), re.MULTILINE)[0])
    except (OSError, IndexError):
        return 0
