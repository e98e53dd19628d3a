"""What a chain's report is asked, from its chain file and the command line, and what its runs cost."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from pretrain.runtime.settings import SettingsError
from tools.chain.plan.sweep import list_points
from tools.report.gather import ChainFiles, read_outline
from transfer.metrics.bootstrap import MetricDraws, read_draws
from transfer.results.comparison import Costs
from transfer.results.question import Controls, Question, find_question_mistakes, make_question
from transfer.results.seeds import method_of
from transfer.results.summaries import RunKey, key_of


def read_question(files: ChainFiles, asked: Mapping[str, Any]) -> Question:
    """Return the chain's question with what the command line asks instead.

    Args:
        files: of the chain; its chain.json may be older than questions.
        asked: compare, baseline, controls, delta; empty or None: as the chain has it.

    Raises:
        SettingsError: a name that is no backbone here, and the like; all mistakes at once.

    """
    config = files.chain.get("config") or {}
    stored: dict[str, Any] = {"compare": config.get("compare") or [], "baseline": config.get("baseline") or ""}
    stored |= {"controls": Controls(**(config.get("controls") or {})), "delta": config.get("delta")}
    given = {key: value for key, value in asked.items() if value not in ((), "", None, Controls())}
    if given.keys() & {"compare", "baseline"}:  # one replaces the other
        stored |= {"compare": [], "baseline": ""}
    wanted = stored | given
    backbones = list_backbones(files)
    names = [*backbones, *(variant for made in backbones.values() for variant in made)]
    if mistakes := find_question_mistakes(**wanted, names=names):
        raise SettingsError("\n".join(f"{files.folder}: {text}" for _, text in mistakes))
    return make_question(**wanted, backbones=backbones)


def list_backbones(files: ChainFiles) -> dict[str, list[str]]:
    """Return the chain's backbones in its order, each with the variants that its sweep makes of it.

    Backbones that have results and are not in chain.json (an older or hand-made folder) follow.
    """
    known = read_outline(files.chain)
    points = list_points(known)
    found = {name: [point.name for point in points if point.owner == name] for name in known.backbones}
    seen = {*found, *(variant for made in found.values() for variant in made)}
    seen |= {method_of(name) for name in seen}
    measured = dict.fromkeys(result.backbone for result in files.results)
    return found | {name: [] for name in measured if name not in seen and method_of(name) not in seen}


def find_costs(files: ChainFiles) -> Costs:
    """Return the mean hours of a pretraining, and of a fine-tuning by protocol; of GPUs where any was seen."""
    done = [stage for stage in files.stages if stage.state == "done"]
    on_gpu = any(stage.gpu_seconds for stage in done)
    hours: dict[str, list[float]] = {}
    for stage in done:
        key = "" if stage.kind == "pretrain" else stage.result.protocol if stage.result is not None else None
        seconds = stage.gpu_seconds if on_gpu else stage.seconds
        if key is not None and seconds > 0:
            hours.setdefault(key, []).append(seconds / 3600)
    means = {key: fmean(values) for key, values in hours.items()}
    return Costs(
        pretraining=means.pop("", None), finetuning=means, unit="GPU-hours" if on_gpu else "hours of this machine"
    )


def make_draws_reader(files: ChainFiles, notes: list[str]) -> Callable[[RunKey], Mapping[str, MetricDraws]]:
    """Return a reader of runs' bootstrap draws; a damaged file becomes a sentence in `notes`, and counts as absent."""
    folders: dict[RunKey, Path] = {
        key_of(stage.result): stage.folder for stage in files.stages if stage.result is not None
    }

    @cache
    def read(run: RunKey) -> Mapping[str, MetricDraws]:
        try:
            return read_draws(folders[run])
        except ValueError as error:
            notes.append(str(error))
            return {}

    return read
