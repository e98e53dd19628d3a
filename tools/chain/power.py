"""Say what the comparisons of a chain will be able to show, and the cheapest numbers of runs that show more."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.yaml_nodes import DocumentError, plain_value, read_document
from tools.chain.explain import measure_gpu_hours, whole_gpu_hours
from tools.chain.plan.config import ChainConfig, Protocol
from tools.chain.plan.make_plan import Stage
from tools.chain.plan.seeds import expand_seeds
from tools.chain.plan.stage_commands import RESULT, find_file, find_named_config
from tools.chain.plan.sweep import expand_grid, list_points
from tools.chain.record.state import stage_folder
from tools.chain.submit import Chain, list_places
from transfer.results.forecast import Forecast, find_spread, forecast
from transfer.results.question import make_question
from transfer.results.run_result import read_results
from transfer.results.seeds import method_of
from transfer.results.summaries import Summary, published_noise, summarise

SHOWN = 12
"""Lines of a plan; more do not fit its screen."""
DELTA = 0.5
"""Percent points to be shown where the chain names none and none are published."""
CLAIMS = {
    "methods": "about the methods",
    "checkpoints": "about these checkpoints, not the methods",
    "checkpoint_and_method": "about this checkpoint against the method",
    "two_runs": "about two runs",
}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One protocol of the chain, as results will name it."""

    name: str
    protocol: str
    metrics: tuple[str, ...]
    finetunings: int
    pretrainings: dict[str, int]
    """Method → how many pretrainings of it are measured."""


def say_power(chain: Chain) -> list[str]:
    """Return one line per comparison, protocol and headline metric; none where nothing is compared."""
    config = expand_seeds(expand_grid(chain.config))
    measures = list(_list_measures(chain, config))
    asked, points = chain.config, list_points(chain.config)
    variants = {name: [point.name for point in points if point.owner == name] for name in asked.backbones}
    question = make_question(asked.compare, asked.baseline, asked.controls, asked.delta, variants)
    pairs = question.list_pairs(list(dict.fromkeys(map(method_of, config.backbones))))
    tests = [
        (first, second, measure, metric)
        for first, second in pairs
        for measure in measures
        for metric in measure.metrics
        if {first, second} <= set(measure.pretrainings)
    ]
    if not tests:
        return []
    summaries = _read_summaries(chain)
    said: dict[tuple[str, str, str], list[str]] = {}
    for first, second, measure, metric in tests:
        found = find_spread(summaries, measure.protocol, metric)
        designs = [(measure.pretrainings[name], measure.finetunings) for name in (first, second)]
        delta = question.delta or published_noise(measure.protocol, metric) or DELTA
        costs = _find_costs(chain, first, measure)
        seen = forecast(found, designs[0], designs[1], delta=delta, costs=costs, family=len(tests))
        said.setdefault((first, second, _say(seen, delta)), []).append(f"{measure.name} {metric}")
    lines = [f"  {one} against {two} ({', '.join(names)}): {text}" for (one, two, text), names in said.items()]
    more = [f"  … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return ["what the comparisons can show, with 80 % power:", *lines[:SHOWN], *more]


def _say(seen: Forecast, delta: float) -> str:
    if seen.claim == "none":
        return "too few runs: one of a kind on one side"
    if seen.smallest is None:
        return f"unknown until runs have finished; the claim is {CLAIMS[seen.claim]}"
    text = f"{seen.smallest:.2f} points or more ({CLAIMS[seen.claim]}; {seen.source} spread)"
    if seen.split is None:
        return text
    split = seen.split
    return (
        f"{text}; {delta:g} points take {split.pretrainings} pretrainings × {split.finetunings} fine-tunings a side at "
        f"least cost, {split.cost:.0f} GPU-hours"
    )


def _list_measures(chain: Chain, config: ChainConfig) -> Iterator[Measure]:
    for name, protocol in config.protocols.items():
        if protocol.kind == "command":
            continue
        chosen = protocol.backbones or tuple(config.backbones)
        counts: dict[str, int] = {}
        for backbone in chosen:
            counts[method_of(backbone)] = counts.get(method_of(backbone), 0) + 1
        seeds = config.seeds if protocol.seeds is None else protocol.seeds
        identifier, metrics = _look_up(chain, protocol)
        runs = 1 if protocol.kind == "knn" else len(seeds)
        yield Measure(name=name, protocol=identifier, metrics=metrics, finetunings=runs, pretrainings=counts)


def _look_up(chain: Chain, protocol: Protocol) -> tuple[str, tuple[str, ...]]:
    """Return the protocol's identifier and its headline metrics, as its config says."""
    places = list_places(chain.path)
    path = find_file(protocol.config, places) or find_named_config(protocol.config, places[-1])
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = plain_value(read_document(path)) or {}
        except DocumentError:
            values = {}
    if protocol.kind != "detector":
        return str(values.get("protocol") or {"linear": "linear-in1k@moco", "knn": "knn-in1k"}[protocol.kind]), (
            "top1",
        )
    tested = (values.get("DATASETS") or {}).get("TEST") or []
    if tested and str(tested[0]).startswith("voc_"):
        return str(values.get("PROTOCOL")), ("AP",)
    has_masks = (values.get("MODEL") or {}).get("MASK_ON", False)
    return str(values.get("PROTOCOL")), ("box/AP", "mask/AP") if has_masks else ("box/AP",)


def _read_summaries(chain: Chain) -> list[Summary]:
    """Return what the finished runs measured; a plan leaves damaged results to the report, which names them."""
    results = []
    for stage in chain.stages:
        path = stage_folder(chain.folder, stage.folder) / RESULT
        if path.is_file():
            with contextlib.suppress(ValueError, OSError):
                results += read_results([path])
    try:
        return summarise(results)
    except ValueError:
        return []


def _find_costs(chain: Chain, method: str, measure: Measure) -> tuple[float | None, float | None]:
    """Return the GPU-hours of a pretraining of the method and of one of its fine-tunings; None where unknown."""
    measured = measure_gpu_hours(chain.folder)

    def cost_of(stages: Sequence[Stage]) -> float | None:
        return next((hours for stage in stages if (hours := whole_gpu_hours(stage, measured))), None)

    pretrainings = [stage for stage in chain.stages if stage.name.startswith("pretrain-") and method in stage.name]
    finetunings = [stage for stage in chain.stages if stage.array.startswith(f"{measure.name}-{method}")]
    return cost_of(pretrainings), cost_of(finetunings)
