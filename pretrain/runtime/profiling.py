"""Profile training steps on the CPU and on the device."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from pretrain.runtime.storage import TEMPORARY_PREFIX, write_text

WARM_UP_STEPS = 3
"""Steps excluded from the profile, as the first ones select algorithms and fill caches."""
TABLE_ROWS = 25
logger = logging.getLogger(__name__)


@contextmanager
def profile_steps(folder: Path, steps: int, device: torch.device) -> Iterator[Callable[[], None]]:
    """Yield a function to call after every step; after WARM_UP_STEPS + `steps` calls it writes files to `folder`.

    trace.json is for chrome://tracing or Perfetto, steps.txt lists the costliest operations. No-op if `steps` is 0.
    """
    if not steps:
        yield lambda: None
        return

    def write(recorded: profile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f"{TEMPORARY_PREFIX}trace.json"
        recorded.export_chrome_trace(str(beside))
        beside.replace(folder / "trace.json")
        order = f"self_{device.type}_time_total"
        write_text(folder / "steps.txt", recorded.key_averages().table(sort_by=order, row_limit=TABLE_ROWS) + "\n")
        logger.info("profile of %d steps: %s", steps, folder)

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    once = schedule(wait=0, warmup=WARM_UP_STEPS, active=steps, repeat=1)
    with profile(activities=activities, schedule=once, on_trace_ready=write, acc_events=True) as recorded:
        yield recorded.step
