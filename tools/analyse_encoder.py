"""Analyse one or several encoders, and compare them in figures.

  python -m tools.analyse_encoder configs/transfer/analyse_digits.yaml data=data/digits out=runs/analysis \
      mochi=runs/mochi/encoder.pt random=runs/random/encoder.pt
  python -m tools.analyse_encoder CONFIG data=imagenet out=runs/by_epoch e20=checkpoint_00100080.pt e200=encoder.pt

Each NAME=WEIGHTS is any file that the converter reads. Head and queue come from the file if it is a pretraining
checkpoint, or from the checkpoint named in the manifest of a converted file, if it still exists. NAME@1, NAME@2 … are
further seeds of NAME: figures show the mean over seeds and, where possible, its deviation. Each analysis writes
OUT/<analysis>.png, .svg, .json and .csv; OUT/analysis.json is written last. The analyses: hardness of the negatives,
proxy task accuracy, false negatives, class oracle, alignment and uniformity, class distances.
"""

import csv
import dataclasses
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.runtime.command_line import UsageError, run_command
from pretrain.runtime.settings import as_dict, parse_overrides, read_settings
from pretrain.runtime.storage import write_json, write_text
from transfer.analysis.config import AnalysisConfig, check_analysis_config

if TYPE_CHECKING:
    from transfer.analysis.measures import Tables

SUMMARY_NAME = "analysis.json"


def main(arguments: Sequence[str]) -> int:
    """Embed the images with every encoder, run the analyses, write tables and figures."""
    config_path, encoders, overrides = read_words(arguments)
    config = read_settings(AnalysisConfig, config_path, overrides)
    check_analysis_config(config)
    out = Path(config.out)
    if (out / SUMMARY_NAME).exists():
        print(f"{out}: already finished")
        return 0
    tables, about = measure(config, encoders)
    write_tables(out, tables)
    # heavy (matplotlib): keep --help fast
    from transfer.analysis.figures import draw_figures

    figures = draw_figures(tables.rows, out)
    write_json(out / SUMMARY_NAME, summarise(config, tables, about))
    print(f"{out}: {len(figures) // 2} figures that compare {', '.join(encoders)}")
    return 0


def read_words(arguments: Sequence[str]) -> tuple[str, dict[str, Path], list[str]]:
    """Return the config's path, {name: weights} and the overrides; NAME=FILE is an encoder unless NAME is a config key.

    Raises:
        UsageError: no config, no encoder, or a missing weights file.

    """
    keys = {entry.name for entry in dataclasses.fields(AnalysisConfig)}
    words = [word for word in arguments if "=" not in word]
    pairs = [word.partition("=") for word in arguments if "=" in word]
    encoders = {key: Path(value) for key, _, value in pairs if key not in keys}
    expected = "expected CONFIG out=FOLDER data=ROOT NAME=WEIGHTS [NAME=WEIGHTS …] [key=value …]"
    if len(words) != 1 or not encoders:
        raise UsageError(f"{expected}; got {' '.join(arguments) or 'nothing'}. Add --help for an example.")
    missing = [f"{name}={path}" for name, path in encoders.items() if not path.is_file()]
    if missing:
        raise UsageError(
            f"{', '.join(missing)}: neither a config key nor a weights file; config keys: {', '.join(sorted(keys))}"
        )
    overrides = [f"{key}={value}" for key, _, value in pairs if key in keys]
    parse_overrides(overrides)
    return words[0], encoders, overrides


def measure(config: AnalysisConfig, encoders: dict[str, Path]) -> "tuple[Tables, dict[str, Any]]":
    """Return the tables over all encoders, and a summary of encoders, space and negatives as JSON values."""
    # heavy (torch): keep --help fast
    import torch

    from pretrain.input.labelled_images import find_images
    from pretrain.runtime.progress import Heartbeat
    from pretrain.runtime.stopping import StopFlag, YieldRequested
    from transfer.analysis.embeddings import embed_images, load_encoder
    from transfer.analysis.measures import Tables, analyse
    from transfer.weights.frozen_backbone import choose_device

    stop = StopFlag().install()
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    loaded = [load_encoder(name, path, device, config.precision) for name, path in encoders.items()]
    use_head = choose_space(config.space, {encoder.name: encoder.head is not None for encoder in loaded})
    use_queue = use_head and all(encoder.queue is not None for encoder in loaded)
    source = find_images(config.data, config.split, config.class_list, config.images)
    tables, done = Tables(), 0
    heartbeat = Heartbeat(config.out, 3 * len(source) * len(loaded), unit="images")

    def after_batch(images: int) -> None:
        nonlocal done
        done += images
        heartbeat.beat(done, "embedding")
        if stop.is_set:
            raise YieldRequested(stop.reason)

    for encoder in loaded:
        embeddings = embed_images(encoder, source, config, use_head=use_head, after_batch=after_batch)
        analyse(encoder, embeddings, config, use_queue=use_queue, tables=tables)
    about = {
        "encoders": {encoder.name: encoder.describe() for encoder in loaded},
        "space": "head" if use_head else "backbone",
        "negatives": "queue" if use_queue else "other images",
        "images": len(source),
    }
    return tables, about


def choose_space(space: str, heads: dict[str, bool]) -> bool:
    """Return whether queries and keys are projected by the head; under auto, if every encoder has one.

    Raises:
        ValueError: space=head, but an encoder has no head.

    """
    if space == "head" and not all(heads.values()):
        without = ", ".join(name for name, has_head in heads.items() if not has_head)
        raise ValueError(
            f"space=head, but no head was found for {without}; pass its pretraining checkpoint or encoder.pt"
        )
    return space != "backbone" and all(heads.values())


def write_tables(out: Path, tables: "Tables") -> None:
    """Write OUT/<analysis>.json and .csv."""
    # heavy (torch): see measure
    from transfer.analysis.measures import DEFINITIONS

    for name, measured in tables.rows.items():
        rows = [{key: _finite(value) for key, value in row.items()} for row in measured]
        if not rows:
            continue
        write_json(out / f"{name}.json", {"analysis": name, "definition": DEFINITIONS[name], "rows": rows})
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(out / f"{name}.csv", text.getvalue())


def summarise(config: AnalysisConfig, tables: "Tables", about: dict[str, Any]) -> dict[str, Any]:
    """Return the scalars of every encoder that reports tabulate."""
    numbers: dict[str, dict[str, Any]] = {name: {} for name in about["encoders"]}
    for row in tables.rows["hardness_histogram"]:
        mine = numbers[row["encoder"]]
        mine["hardest_share"] = max(mine.get("hardest_share", 0.0), row["probability"])
        mine["top_share"] = mine.get("top_share", 0.0) + row["probability"]
    for row in tables.rows["proxy_accuracy"]:
        numbers[row["encoder"]] |= {"proxy_accuracy": row["real"], "proxy_accuracy_mixed": row["with_mixes"]}
    for row in tables.rows["false_negatives"]:
        ranked = row["kind"] == "rank"
        key = "false_negatives" if ranked else f"mixes_{row['kind']}"
        numbers[row["encoder"]][key] = row["share_up_to_rank"] if ranked else row["share"]
    for name in ("oracle", "alignment_uniformity"):
        for row in tables.rows[name]:
            numbers[row["encoder"]] |= {key: value for key, value in row.items() if key != "encoder"}
    for row in tables.rows["class_distances"]:
        if row["kind"] == "mean":
            keys = ("intra_variance", "inter_distance", "separation")
            numbers[row["encoder"]] |= {key: _finite(row[key]) for key in keys}
    return {**about, "numbers": numbers, "config": as_dict(config)}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
