"""The commands; run each as `python -m tools.<verb_object>`."""

from pathlib import Path

# `python -m tools.benchmark_views` and `python -m tools.fault_campaign` work although their files lie with their parts.
__path__ += [str(Path(__file__).parent / folder) for folder in ("benchmarks", "trials")]
