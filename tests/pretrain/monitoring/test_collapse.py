"""Runs that do not learn give a warning: closed forms of the metrics, and the advice of the warning."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pretrain.config import DataConfig, MixingConfig, ModelConfig, OptimizerConfig, PretrainConfig, RunConfig
from pretrain.loss import contrastive_loss
from pretrain.methods import build_method
from pretrain.monitoring.collapse import (
    AT_CHANCE,
    LOOKS,
    CollapseMonitor,
    chance_loss,
    effective_rank,
    embedding_std,
    explain,
)
from pretrain.runtime.stopping import StopFlag
from pretrain.train import train

SMALL = PretrainConfig(model=ModelConfig(arch="resnet18", dim=4, queue_len=30), run=RunConfig(batch_size=10, epochs=10))


@given(st.integers(2, 40), st.integers(1, 16), st.integers(0, 10**6))
def test_equal_embeddings_have_no_deviation_and_rank_one(count: int, dim: int, seed: int) -> None:
    row = torch.nn.functional.normalize(torch.randn(1, dim, generator=torch.Generator().manual_seed(seed)), dim=1)
    rows = row.repeat(count, 1)
    assert embedding_std(rows) == pytest.approx(0, abs=1e-6)
    assert effective_rank(rows) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dim", [2, 8])
def test_plus_and_minus_each_axis_have_deviation_one_and_full_rank(dim: int) -> None:
    axes = torch.cat([torch.eye(dim), -torch.eye(dim)])
    assert embedding_std(axes) == pytest.approx(1)
    assert effective_rank(axes) == pytest.approx(dim)


def test_deviation_is_that_of_a_float64_loop() -> None:
    rows = torch.nn.functional.normalize(torch.randn(7, 3), dim=1)
    values = rows.double().tolist()
    total = 0.0
    for column in zip(*values, strict=True):
        mean = sum(column) / 7
        total += sum((value - mean) ** 2 for value in column) / 7
    assert embedding_std(rows) == pytest.approx(math.sqrt(total))


@pytest.mark.parametrize("mixing", [MixingConfig(), MixingConfig(n=8, s=5, s_prime=3)])
def test_chance_is_the_loss_of_equal_embeddings(mixing: MixingConfig) -> None:
    config = replace(SMALL, mixing=mixing)
    row = torch.nn.functional.normalize(torch.randn(1, 4), dim=1)
    output = contrastive_loss(row.repeat(10, 1), row.repeat(10, 1), row.repeat(30, 1), temperature=0.2, mixing=mixing)
    assert chance_loss(config, build_method(config), mixing_on=True) == pytest.approx(output.loss.item(), rel=1e-5)


def test_chance_counts_the_other_views_of_simclr_and_the_classes_of_a_classifier() -> None:
    simclr = replace(SMALL, model=replace(SMALL.model, method="simclr"))
    assert chance_loss(simclr, build_method(simclr), mixing_on=False) == pytest.approx(math.log(19))
    labelled = replace(SMALL, model=replace(SMALL.model, method="supervised", dim=7), run=RunConfig(epochs=0))
    assert chance_loss(labelled, build_method(labelled), mixing_on=False) == pytest.approx(math.log(7))


def watch(
    config: PretrainConfig, losses: list[float], *, equal: bool, caplog: pytest.LogCaptureFixture, first: int = 501
) -> list[str]:
    model = build_method(config)
    keys = torch.nn.functional.normalize(torch.randn(30, 4), dim=1)
    model.queue.enqueue(keys[:1].repeat(30, 1) if equal else keys, torch.arange(30), torch.zeros(30, dtype=torch.long))
    monitor = CollapseMonitor(config, model, steps=1000, steps_per_epoch=100)
    with caplog.at_level(logging.WARNING):
        for number, loss in enumerate(losses):
            values = monitor.look(first + 20 * number, loss)
            assert values["embedding_std"] == pytest.approx(0.0 if equal else embedding_std(keys), abs=1e-4)
    return [record.getMessage() for record in caplog.records]


def test_loss_at_chance_warns_once_with_advice_and_again_on_recovery(caplog: pytest.LogCaptureFixture) -> None:
    config = replace(SMALL, optimizer=OptimizerConfig(lr=0.1), data=DataConfig(crop_px=32))
    chance = math.log(31)
    texts = watch(config, [chance] * (LOOKS + 2) + [0.5 * chance], equal=False, caplog=caplog)
    assert len(texts) == 2
    assert f"step {501 + 20 * (LOOKS - 1)} of 1000: the loss 3.434 is at the level of equal scores" in texts[0]
    places = [
        texts[0].index(part)
        for part in ("optimizer.lr (85.3 times", "model.head=mlp_bn", "optimizer.warmup_steps=100", "data.crop_px=64")
    ]
    assert places == sorted(places)
    assert "the run learns" in texts[1]


def test_equal_embeddings_are_reported_as_collapse_for_any_loss(caplog: pytest.LogCaptureFixture) -> None:
    texts = watch(SMALL, [0.1] * LOOKS, equal=True, caplog=caplog, first=201)
    assert len(texts) == 1
    assert "all images have nearly the same embedding (embedding_std 0.000" in texts[0]


def test_loss_briefly_at_chance_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    chance = math.log(31)
    losses = [chance, chance, 0.9 * chance, chance, chance, (AT_CHANCE - 0.01) * chance]
    assert watch(SMALL, losses, equal=False, caplog=caplog) == []


def test_loss_at_chance_in_the_first_half_gives_no_warning_while_embeddings_spread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chance = math.log(31)
    assert watch(SMALL, [chance] * 14 + [0.9 * chance], equal=False, caplog=caplog, first=201) == []


def test_warm_up_longer_than_the_run_warns_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    config = replace(SMALL, optimizer=OptimizerConfig(warmup_steps=100))
    model = build_method(config)
    CollapseMonitor(config, model, steps=101, steps_per_epoch=50)
    assert not caplog.records
    CollapseMonitor(config, model, steps=100, steps_per_epoch=50)
    assert "the run has only 100 steps" in caplog.text


def test_a_run_without_an_obvious_mistake_still_gets_advice() -> None:
    config = replace(
        SMALL,
        model=replace(SMALL.model, head="mlp_bn"),
        optimizer=OptimizerConfig(name="adamw", lr=1e-3, warmup_steps=10),
    )
    assert "train longer" in explain(config, 500, 3.4, 3.4, 0.9)


@pytest.mark.slow
def test_training_writes_the_figures_and_warns_of_a_rate_that_cannot_learn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(140):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"train/{name}/{number}.png")
    config = PretrainConfig(
        data=DataConfig(root=str(tmp_path), crop_px=32, workers=0),
        model=ModelConfig(arch="resnet18", dim=8, queue_len=16),
        optimizer=OptimizerConfig(lr=0.5, per_step=True),
        run=RunConfig(out=str(tmp_path / "run"), epochs=1, batch_size=4, log_every_steps=4),
    )
    with caplog.at_level(logging.WARNING):
        train(config, StopFlag())
    texts = [record.getMessage() for record in caplog.records]
    assert any("optimizer.lr: the peak is 0.5, 1066.7 times what the source of sgd uses" in text for text in texts)
    assert any("Try in this order: lower optimizer.lr" in text for text in texts)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"chance_loss", "embedding_std", "embedding_rank"} <= line.keys()
