"""The commands; run each as `python -m tools.<verb_object>`."""

from pathlib import Path

# Also finds commands in these folders: `python -m tools.benchmark_views`, `python -m tools.fault_campaign`.
__path__ += [str(Path(__file__).parent / folder) for folder in ("benchmarks", "trials")]
