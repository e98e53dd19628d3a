"""Compare our contrastive loss with mixing to MoCo-v2's loss and a naive MoCHi, in one run.

  python -m tools.benchmark_mixing json=mixing.json
  python -m tools.benchmark_mixing device=cuda rounds=50
  python -m tools.benchmark_mixing n=256 s=2048 s_prime=2048          (other counts of the paper)

References: moco is the loss of facebookresearch/moco (clone of the queue, cat, / tau, cross-entropy); naive gathers the
features of every mix (B, s, D), normalises and multiplies them; floor is only the two matrix products that every such
loss contains. Ours: fused (one autograd.Function), plain (the same closed forms through autograd) and approximate
(fused, with approximate top-N; its recall is printed). A measurement is one forward and backward to dloss/dq.

Time: measurements are interleaved in rounds, in a rotating order; a ratio is the median over the rounds of the ratio
within a round; low and high are its quartiles. Memory: the peak allocation beyond the inputs, measured in a separate
round (torch.profiler on a CPU, the allocator's statistics on CUDA), because recording allocations takes time.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings

MIB = 2**20
OURS = ("fused", "plain", "approximate")
REFERENCES = ("moco", "naive", "floor")
TARGETS = {"fused_vs_moco_b256": (2.35, None), "fused_vs_naive_b256": (0.72, 0.2)}
"""Row → maximum ratios of (time, memory), on a CPU with the default options; None: no target."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Rounds, sizes, device and output of the benchmark."""

    json: str = ""
    """JSON file to write; empty: print only."""
    device: str = "cpu"
    """cpu or cuda."""
    rounds: int = 15
    """Counted rounds; one warm-up round precedes them."""
    batch_sizes: tuple[int, ...] = (32, 256)
    """B, the numbers of queries; names of rows end with it."""
    queue_len: int = 65536
    """K, the number of keys in the queue."""
    dim: int = 128
    """D, the dimension of keys and queries."""
    n: int = 1024
    """N, the number of hardest negatives to mix from; N, s and s' default to the paper's for ImageNet-100."""
    s: int = 1024
    """s, pair mixes per query."""
    s_prime: int = 128
    """s', query mixes per query."""
    threads: int = 2
    """torch's intra-op threads on a CPU."""


def main(arguments: Sequence[str]) -> None:
    """Measure, print one line per row, write JSON."""
    _, overrides = split_arguments(arguments, [])
    settings = read_settings(BenchmarkSettings, overrides=overrides)
    # heavy
    import torch

    from pretrain.config import MixingConfig
    from pretrain.runtime.machine import describe_machine, name_machine, read_commit
    from pretrain.runtime.storage import write_json
    from tools.benchmarks.contrastive_forms import build_forms, measure_peak_bytes, measure_seconds

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch finds no CUDA device; use device=cpu")
    torch.set_num_threads(settings.threads)
    mixing = MixingConfig(n=settings.n, s=settings.s, s_prime=settings.s_prime)
    rows: dict[str, dict[str, Any]] = {}
    recall: dict[str, float] = {}
    for batch in settings.batch_sizes:
        forms, recall[f"b{batch}"] = build_forms(
            mixing, batch=batch, queue_len=settings.queue_len, dim=settings.dim, device=settings.device
        )
        seconds = measure_seconds(forms, rounds=settings.rounds, device=settings.device)
        peaks = {name: measure_peak_bytes(run, settings.device) for name, run in forms.items()}
        for name, row in compare(seconds, peaks).items():
            rows[f"{name}_b{batch}"] = row | {"machine": name_machine()}
    for name, row in rows.items():
        print(describe_row(name, row))
    print("approximate top-N finds " + ", ".join(f"{share:.1%} ({name})" for name, share in recall.items()))
    result = {
        "rows": rows,
        "approximate_recall": recall,
        "settings": {"n": settings.n, "s": settings.s, "s_prime": settings.s_prime, "queue_len": settings.queue_len},
        "machine": describe_machine(),
        "threads": settings.threads,
        "commit": read_commit(),
    }
    if settings.json:
        write_json(settings.json, result)


def compare(seconds: Mapping[str, Sequence[float]], peaks: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return a row per implementation of ours and reference: ratios ours / reference and their quartiles."""
    rows = {}
    for form in OURS:
        for reference in REFERENCES:
            ratios = [ours / theirs for ours, theirs in zip(seconds[form], seconds[reference], strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            rows[f"{form}_vs_{reference}"] = {
                "time_ratio": round(statistics.median(ratios), 3),
                "memory_ratio": round(peaks[form] / peaks[reference], 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "rounds": len(ratios),
                "milliseconds": round(1000 * statistics.median(seconds[form]), 2),
                "peak_mib": round(peaks[form] / MIB, 1),
            }
    return rows


def describe_row(name: str, row: Mapping[str, Any]) -> str:
    """Return a row as one line of text."""
    time_target, memory_target = TARGETS.get(name, (None, None))
    targets = [f"time {time_target}"] * bool(time_target) + [f"memory {memory_target}"] * bool(memory_target)
    return (
        f"{name:26} time {row['time_ratio']:5.2f}x ({row['low']:.2f}…{row['high']:.2f})  "
        f"memory {row['memory_ratio']:5.2f}x ({row['peak_mib']:.0f} MiB)"
        + (f"  target at most: {', '.join(targets)}" if targets else "")
    )


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
