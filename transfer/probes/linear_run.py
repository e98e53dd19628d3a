"""Train linear heads on a frozen backbone and write the result; runs stop on request and resume exactly.

OUT/linear.pt holds the heads, the optimizer state and the position. OUT/features/ holds the cached features during
the run; no process loads all of them. A batch is a pure function of seed, epoch and step, so a resumed run equals the
uninterrupted one.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.input.labelled_images import LabelledImages
from pretrain.input.sampler import ShardedSampler
from pretrain.runtime import distributed
from pretrain.runtime.progress import Heartbeat
from pretrain.runtime.settings import as_dict
from pretrain.runtime.stopping import StopFlag, YieldRequested
from pretrain.runtime.storage import open_whole, sweep_temporary_files, write_text
from transfer.metrics.bootstrap import bootstrap_accuracy, summarise_draws, write_draws
from transfer.probes.features import UNRELATED, Features, extract_features, find_split, list_deviations
from transfer.probes.linear_heads import (
    PROTOCOLS,
    Accuracy,
    Heads,
    LinearConfig,
    Standardiser,
    build_optimizer,
    fit_standardiser,
    list_rates,
    rate_factor,
    set_rates,
    summarise_accuracy,
)
from transfer.probes.predictions import name_images, write_predictions
from transfer.results.run_result import RunResult, write_result
from transfer.weights.frozen_backbone import FrozenBackbone, build_batches, choose_device

logger = logging.getLogger(__name__)
CHECKPOINT_MINUTES = 10.0
"""Maximum time between two checkpoints within an epoch."""
EVALUATION_ROWS = 4096
"""Validation features classified per step."""
FEATURES_FOLDER = "features"


class LinearTraining:
    """State of one run: data, heads, optimizer and position."""

    def __init__(self, config: LinearConfig, weights: Path, stop: StopFlag) -> None:
        self.config, self.stop, self.out = config, stop, Path(config.out)
        self.began = time.monotonic()
        self.seconds_before = 0.0
        self.weights = weights
        self.device = choose_device(config.device)
        self.model = FrozenBackbone(weights, self.device, config.precision)
        self.digest = self.model.digest
        source = find_split(config, "train")
        self.images = LabelledImages(
            source, crop_px=config.crop_px, resize_px=config.resize_px, random_seed=config.seed
        )
        self.sampler = ShardedSampler(
            len(source), config.batch_size, config.seed, distributed.rank(), distributed.world_size()
        )
        self.heads = Heads(self.model.width, len(source.classes), list_rates(config), config.seed).to(self.device)
        self.optimizer = build_optimizer(self.heads, config)
        self.history: list[Accuracy] = []
        self.epoch = self.step = 0
        self.best: dict[str, Tensor] = {}
        self.proved = 0
        self.standardise: Standardiser | None = None

    def run(self) -> RunResult:
        """Train the remaining epochs and return the result.

        Raises:
            YieldRequested: a stop was requested; the checkpoint is saved.

        """
        steps = self.sampler.steps_per_epoch
        self._resume()
        heartbeat = Heartbeat(
            self.out,
            self.config.epochs * steps,
            first_step=self.epoch * steps + self.step,
            writes=distributed.is_main(),
        )
        heartbeat.beat(self.epoch * steps + self.step, "features", now=True)
        train, val = self._load_features()
        while self.epoch < self.config.epochs:
            self._train_epoch(train, heartbeat)
            self._finish_epoch(val)
        heartbeat.beat(self.config.epochs * steps, "done", now=True)
        return self._conclude(val)

    def _train_epoch(self, train: Features | None, heartbeat: Heartbeat) -> None:
        saved = time.monotonic()
        set_rates(self.optimizer, self.heads, rate_factor(self.config, self.epoch))
        for values, labels in self._iterate(train):
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(self.heads.loss(values, labels))
            distributed.average_gradients(self.heads)
            self.optimizer.step()
            self.step += 1
            heartbeat.beat(self.epoch * self.sampler.steps_per_epoch + self.step, f"epoch {self.epoch + 1}")
            late = train is None and time.monotonic() - saved > 60 * CHECKPOINT_MINUTES
            stopping, due = distributed.any_rank(self.stop.is_set, late)
            if stopping or due:
                self._save()
                saved = time.monotonic()
            if stopping:
                raise YieldRequested(self.stop.reason or "another rank received a stop request")

    def _iterate(self, train: Features | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's features (B, D) and labels (B,) of each batch, starting at the current step."""
        self.sampler.set_position(self.epoch, self.step)
        if train is None:
            for batch in build_batches(self.images, self.sampler, self.config.workers):
                yield self.model(batch["image"]), batch["label"].to(self.device)
            return
        for requests in self.sampler:
            rows = torch.tensor([index for _, index in requests])
            yield self._prepare(train.values[rows]), train.labels[rows].to(self.device)

    def _prepare(self, features: Tensor) -> Tensor:
        """Return features (B, D) on the device, standardised if the config requires it."""
        return (self.standardise(features) if self.standardise else features).to(self.device)

    @torch.no_grad()
    def _finish_epoch(self, val: Features) -> None:
        """Evaluate the heads, verify that the backbone is unchanged, keep the best heads and write the checkpoint."""
        hits = torch.zeros(len(self.heads.rates), dtype=torch.int64, device=self.device)
        for rows in self._own_chunks(val):
            hits += self.heads.count_hits(self._prepare(val.values[rows]), val.labels[rows].to(self.device))
        distributed.sum_in_place(hits)
        top1 = tuple(100 * count / len(val.labels) for count in hits.tolist())
        if not self.history or max(top1) > max(max(entry.top1) for entry in self.history):
            self.best = {name: tensor.cpu().clone() for name, tensor in self.heads.state_dict().items()}
        self.epoch, self.step = self.epoch + 1, 0
        self.history.append(Accuracy(self.epoch, top1))
        self.proved = self.model.prove_frozen()
        if self.epoch == self.config.epochs or self.config.augment != "none" or self.epoch % 10 == 0:
            logger.info(
                "epoch %d: top-1 %s %%; all %d backbone tensors unchanged", self.epoch, _percent(top1), self.proved
            )
            self._save()

    def _own_chunks(self, val: Features) -> Iterator[slice]:
        """Yield the chunks of rows of `val` that this rank evaluates; chunks are assigned round-robin."""
        every = EVALUATION_ROWS * distributed.world_size()
        for begin in range(EVALUATION_ROWS * distributed.rank(), len(val.labels), every):
            yield slice(begin, begin + EVALUATION_ROWS)

    def _load_features(self) -> tuple[Features | None, Features]:
        """Return the cached features of both splits; None for train if its images are augmented.

        The centre crops of val never change, so their features are extracted once.
        """
        splits = ("val",) if self.config.augment != "none" else ("train", "val")
        found = {split: self._take_features(split) for split in splits}
        train = found.get("train")
        if train is not None and self.config.standardise:
            self.standardise = fit_standardiser(train.values)
        return train, found["val"]

    def _take_features(self, split: str) -> Features:
        def after_batch(_done: int) -> None:
            if any(distributed.any_rank(self.stop.is_set)):
                raise YieldRequested(self.stop.reason or "another rank received a stop request")

        folder = self.out / FEATURES_FOLDER
        return extract_features(self.model, self.config, split, folder, after_batch=after_batch)

    def _save(self) -> None:
        if distributed.is_main():
            state = {
                "heads": self.heads.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "epoch": self.epoch,
                "step": self.step,
                "history": [[entry.epoch, *entry.top1] for entry in self.history],
                "settings": self._settings(),
                "seconds": self.seconds_before + time.monotonic() - self.began,
            }
            with open_whole(self.out / "linear.pt") as stream:
                torch.save(state, stream)
            steps = self.sampler.steps_per_epoch
            lines = [{"step": entry.epoch * steps, "epoch": entry.epoch, "top1": entry.top1} for entry in self.history]
            write_text(self.out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        distributed.barrier()

    def _resume(self) -> None:
        path = self.out / "linear.pt"
        distributed.on_main(lambda: sweep_temporary_files(self.out))
        if not distributed.on_main(path.exists):
            return
        state = _read_tensors(path)
        now = self._settings()
        added = {key: value for key, value in as_dict(LinearConfig()).items() if key in now.keys() - state["settings"]}
        if added | state["settings"] != now:  # a field that did not exist then had its default
            raise ValueError(
                f"{path}: belongs to a run with another config or other weights; choose a new out= or delete {self.out}"
            )
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.epoch, self.step = state["best"], state["epoch"], state["step"]
        self.history = [Accuracy(int(epoch), tuple(top1)) for epoch, *top1 in state["history"]]
        self.seconds_before = state["seconds"]
        logger.info("resuming after epoch %d, step %d", self.epoch, self.step)

    def _settings(self) -> dict[str, Any]:
        kept = {key: value for key, value in as_dict(self.config).items() if key not in UNRELATED}
        return {**kept, "weights_sha256": self.digest}

    @torch.no_grad()
    def _predict(self, val: Features, rate: float) -> Tensor:
        """Return the class (n,) of every image of val, predicted by the head of `rate`, on every rank."""
        head = self.heads.rates.index(rate)
        predicted = torch.zeros(len(val.labels), dtype=torch.int64)
        for rows in self._own_chunks(val):
            logits = self.heads(self._prepare(val.values[rows]))[head]
            predicted[rows] = logits.argmax(dim=1).cpu()
        return distributed.sum_in_place(predicted)

    def _conclude(self, val: Features) -> RunResult:
        metrics, details = summarise_accuracy(self.history, self.heads.rates)
        predicted = self._predict(val, details["lr"])
        draws = {"top1": bootstrap_accuracy(name_images(val.source), (predicted == val.labels).numpy())}
        details["bootstrap"] = summarise_draws(draws)
        details |= {"proved_frozen_tensors": self.proved or self.model.prove_frozen(), "config": as_dict(self.config)}
        result = RunResult(
            backbone=self.config.backbone or self.weights.stem,
            protocol=self.config.protocol,
            seed=self.config.seed,
            metrics=metrics,
            deviations=list_deviations(PROTOCOLS, self.config),
            weights_sha256=self.digest,
            seconds=self.seconds_before + time.monotonic() - self.began,
            details=details,
        )
        if distributed.is_main():
            write_predictions(self.out, val.source, predicted.numpy())
            write_draws(self.out, draws)
            write_result(self.out, result)
            shutil.rmtree(self.out / FEATURES_FOLDER, ignore_errors=True)
        return result


def train_linear(config: LinearConfig, weights: Path, stop: StopFlag) -> RunResult:
    """Train linear heads on the backbone in `weights`, or resume, and return the result.

    Raises:
        YieldRequested: a stop was requested; the checkpoint is saved.

    """
    return LinearTraining(config, weights, stop).run()


def _read_tensors(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged checkpoint ({error}); delete it and run the same command again") from error
    assert isinstance(state, dict)
    return state


def _percent(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
