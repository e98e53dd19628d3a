"""Read the report's question from chain file and command line, the cost of runs, and their bootstrap draws."""

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
from transfer.results.summaries import HEADLINE, RunKey, key_of


def read_question(files: ChainFiles, asked: Mapping[str, Any]) -> Question:
    """Return the chain's question, overridden by the command line.

    Args:
        files: of the chain; a chain.json of an earlier version may hold no question.
        asked: compare, baseline, controls and delta of the command line; empty or None: as in the chain file.

    Raises:
        SettingsError: lists every mistake, such as the name of an unknown backbone.

    """
    config = files.chain.get("config") or {}
    stored: dict[str, Any] = {"compare": config.get("compare") or [], "baseline": config.get("baseline") or ""}
    stored |= {"controls": Controls(**(config.get("controls") or {})), "delta": config.get("delta")}
    given = {key: value for key, value in asked.items() if value not in ((), "", None, Controls())}
    if given.keys() & {"compare", "baseline"}:  # either one replaces both
        stored |= {"compare": [], "baseline": ""}
    wanted = stored | given
    backbones = list_backbones(files)
    names = [*backbones, *(variant for made in backbones.values() for variant in made)]
    if mistakes := find_question_mistakes(**wanted, names=names):
        raise SettingsError("\n".join(f"{files.folder}: {text}" for _, text in mistakes))
    return make_question(**wanted, backbones=backbones)


def list_backbones(files: ChainFiles) -> dict[str, list[str]]:
    """Return {backbone: its variants in the sweep}, in the order of the chain.

    Backbones that have results but are not in chain.json (of an earlier version or written by hand) follow.
    """
    known = read_outline(files.chain)
    points = list_points(known)
    found = {name: [point.name for point in points if point.owner == name] for name in known.backbones}
    seen = {*found, *(variant for made in found.values() for variant in made)}
    seen |= {method_of(name) for name in seen}
    measured = dict.fromkeys(result.backbone for result in files.results)
    return found | {name: [] for name in measured if name not in seen and method_of(name) not in seen}


def find_costs(files: ChainFiles) -> Costs:
    """Return the mean hours of a pretraining and, by protocol, of a fine-tuning; GPU-hours if any stage used a GPU."""
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
    """Return a reader of bootstrap draws; a damaged file counts as missing and appends its error to `notes`."""
    folders: dict[RunKey, Path] = {
        key_of(stage.result): stage.folder for stage in files.stages if stage.result is not None
    }

    @cache
    def read(run: RunKey) -> Mapping[str, MetricDraws]:
        try:
            found = read_draws(folders[run])
        except ValueError as error:
            notes.append(str(error))
            return {}
        return {
            metric: found[metric] for metric in HEADLINE if metric in found
        }  # the other metrics would need too much memory

    return read
