"""Runs that are killed, stopped or diverge resume without loss: real processes and signals, bit-identical results."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.config import DataConfig, MixingConfig, ModelConfig, OptimizerConfig, PretrainConfig, RunConfig
from pretrain.runtime.checkpoint import read_content
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.settings import as_dict, read_settings
from pretrain.runtime.stopping import StopFlag, YieldRequested
from pretrain.train import train

STEPS = 8  # two epochs of four

# Many starts in one test: a server imports torch once and forks for each, so that a start costs no import.
SERVER = """
import json, os, resource, signal, sys, traceback
from pretrain.config import PretrainConfig
from pretrain.runtime.settings import from_dict
from pretrain.runtime.stopping import StopFlag, YieldRequested
from pretrain import train as module
import torch
torch.set_num_threads(1)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.stdout = sys.stderr = open(os.environ["CHILD_LOG"], "w")
            stop, largest = StopFlag().install(), request.pop("largest_file_bytes", 0)
            if request.pop("stop_at_once", False):
                stop.ask("a test")
            if largest:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            module.train(from_dict(PretrainConfig, request), stop)
            code = 0
        except YieldRequested:
            code = 75
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in "ab":
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(8):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{number}.JPEG")
    return root


def make_config(images: Path, out: Path, **run: object) -> PretrainConfig:
    return PretrainConfig(
        data=DataConfig(root=str(images), crop_px=32, workers=0),
        model=ModelConfig(arch="resnet18", dim=8, queue_len=10, momentum=0.9),
        mixing=MixingConfig(n=6, s=8, s_prime=4, warmup_epochs=1),
        optimizer=OptimizerConfig(lr=0.05),
        run=RunConfig(**{"out": str(out), "epochs": 2, "batch_size": 4, "checkpoint_steps": 1, **run}),
    )


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_content(path / "encoder.pt")["state_dict"]


def assert_same(first: Path, second: Path) -> None:
    left, right = tensors(first), tensors(second)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


class Trainer:
    """A server process that forks one process per training run."""

    def __init__(self, log: Path) -> None:
        self.log = log
        environment = {**os.environ, "CHILD_LOG": str(log), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, config: PretrainConfig, **conditions: object) -> int:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(as_dict(config) | conditions) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def run(self, config: PretrainConfig, **conditions: object) -> int:
        self.start(config, **conditions)
        return self.wait()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory):
    server = Trainer(tmp_path_factory.mktemp("server") / "log.txt")
    yield server
    server.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def undisturbed(images: Path, trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    out = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    trainer.start(make_config(images, out))
    assert trainer.wait() == 0
    return out, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.xdist_group("train")
def test_twenty_kills_at_random_moments_end_with_the_same_bits(
    images: Path, trainer: Trainer, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    chance = random.Random(0)
    kills = runs = 0
    while kills < 20:
        runs += 1
        out = tmp_path / str(runs)
        config = make_config(images, out)
        done_before = 0
        while True:
            child = trainer.start(config)
            if kills < 20 and chance.random() < 0.9:
                time.sleep(chance.uniform(0, 0.45 * seconds))
                with contextlib.suppress(ProcessLookupError):  # it had already ended
                    os.kill(child, signal.SIGKILL)
            code = trainer.wait()
            if code == 0:
                break
            assert code == -signal.SIGKILL, trainer.log.read_text()
            kills += 1
            saved = sorted((out / "checkpoints").glob("*.sha256"))
            done = int(saved[-1].name.split("_")[1].split(".")[0]) if saved else 0
            assert done >= done_before, "a checkpoint was lost"
            done_before = done
        assert_same(out, expected)
        shutil.rmtree(out)
    print(f"{kills} kills over {runs} runs")


@pytest.mark.slow
@pytest.mark.xdist_group("train")
def test_stop_signal_saves_and_yields_and_the_result_is_the_same(
    images: Path, trainer: Trainer, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    config = make_config(images, tmp_path, checkpoint_steps=0)
    child = trainer.start(config)
    deadline = time.monotonic() + 60
    while not (tmp_path / "progress.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)
    assert trainer.wait() == 75
    assert list((tmp_path / "checkpoints").glob("*.sha256"))
    trainer.start(config)
    assert trainer.wait() == 0
    assert_same(tmp_path, undisturbed[0])


@pytest.mark.slow
@pytest.mark.xdist_group("train")
def test_corrupted_newest_checkpoint_costs_only_its_steps(
    images: Path, trainer: Trainer, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    config = make_config(images, tmp_path)
    for _ in range(2):
        assert trainer.run(config, stop_at_once=True) == 75  # one step per start
    newest = tmp_path / "checkpoints" / "checkpoint_00000002.pt"
    spoilt = bytearray(newest.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    newest.write_bytes(spoilt)
    assert trainer.run(config) == 0
    assert f"{newest}: its bytes have changed" in trainer.log.read_text()
    assert_same(tmp_path, undisturbed[0])


@pytest.mark.slow
@pytest.mark.xdist_group("train")
def test_full_disk_is_reported_and_the_rerun_gives_the_same_result(
    images: Path, trainer: Trainer, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    config = make_config(images, tmp_path)
    assert trainer.run(config, stop_at_once=True) == 75
    whole = (tmp_path / "checkpoints" / "checkpoint_00000001.pt").read_bytes()
    assert trainer.run(config, largest_file_bytes=10**6) == 1
    said = trainer.log.read_text()
    assert "checkpoint_00000002.pt: the checkpoint could not be written" in said
    assert "free disk space and run again" in said
    assert (tmp_path / "checkpoints" / "checkpoint_00000001.pt").read_bytes() == whole
    assert not list((tmp_path / "checkpoints").glob(".partial-*"))
    assert trainer.run(config) == 0
    assert_same(tmp_path, undisturbed[0])


@pytest.mark.slow
def test_stop_request_before_the_first_step_takes_effect_after_it(images: Path, tmp_path: Path) -> None:
    stop = StopFlag()
    stop.ask("a test")
    with pytest.raises(YieldRequested, match="a test after step 1"):
        train(make_config(images, tmp_path), stop)


@pytest.mark.slow
@pytest.mark.parametrize(
    "often", [{}, {"checkpoint_steps": 0, "log_every_steps": 100}], ids=["saving", "only-at-the-end"]
)
def test_broken_loss_stops_with_the_last_good_checkpoint_named(
    images: Path, tmp_path: Path, often: dict[str, int]
) -> None:
    from dataclasses import replace

    config = make_config(images, tmp_path, **{"epochs": 1, **often})
    config = replace(config, optimizer=replace(config.optimizer, lr=1e30))
    with pytest.raises(
        FloatingPointError, match=r"NaN or infinite before step \d+; the last good checkpoint is .*Lower"
    ):
        train(config, StopFlag())
    assert not (tmp_path / "encoder.pt").exists()


@pytest.mark.slow
def test_zero_epochs_write_the_random_initialisation_and_a_finished_run_returns_immediately(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path, epochs=0)
    path = train(config, StopFlag())
    written = path.stat().st_mtime_ns
    torch.manual_seed(config.run.seed)
    from pretrain.encoder import build_encoder

    expected = build_encoder(config.model).state_dict()
    state = tensors(tmp_path)
    assert all(torch.equal(state[f"module.encoder_q.{name}"], tensor) for name, tensor in expected.items())
    assert train(config, StopFlag()) == path
    assert path.stat().st_mtime_ns == written
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"run\.seed: 0 stored, 5 given"):
        train(replace(config, run=replace(config.run, seed=5)), StopFlag())


@pytest.mark.slow
def test_checks_write_curves_and_knn(images: Path, tmp_path: Path) -> None:
    train(make_config(images, tmp_path, knn_every_epochs=1, analyse_every_epochs=1, log_every_steps=2), StopFlag())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    keys = {key for line in lines for key in line}
    assert {"loss", "accuracy", "accuracy_with_mixes", "images_per_s", "data_wait", "lr", "knn_top1"} <= keys
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == STEPS
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.slow
def test_profile_writes_a_trace_and_a_table(images: Path, tmp_path: Path) -> None:
    train(make_config(images, tmp_path, profile_steps=2), StopFlag())
    assert {path.name for path in (tmp_path / "profile").iterdir()} == {"trace.json", "steps.txt"}
    assert "aten::" in (tmp_path / "profile" / "steps.txt").read_text()
    assert json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("moco_v1_r50_in1k", ["mixing.s=1024", "mixing.s_prime=512"]),
        ("mochi_r50_in1k", []),
        ("simclr_r50_in1k", ["mixing.s=128", "mixing.s_prime=64"]),
        ("synco_r50_in1k", []),
        ("mochi_r50_in100", ["mixing.oracle=true"]),
    ],
)
def test_methods_train_with_mixing_from_their_configs(name: str, more: list[str], images: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("# both\na\nb\n")
    small = [
        "model.arch=resnet18",
        "model.queue_len=16",
        "data.crop_px=32",
        "data.workers=0",
        f"data.class_list={classes}",
    ]
    short = ["mixing.n=4", "mixing.warmup_epochs=1", "run.epochs=2", "run.batch_size=4", "run.log_every_steps=4"]
    folders = [f"data.root={images}", f"run.out={tmp_path}"]
    train(
        read_settings(
            PretrainConfig, PROJECT_ROOT / "configs" / "pretrain" / f"{name}.yaml", small + short + more + folders
        ),
        StopFlag(),
    )
    warm_up, mixed = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert warm_up["accuracy_with_mixes"] == warm_up["accuracy"]
    assert mixed["loss"] > warm_up["loss"], "the mixes add to the denominator"
    assert (tmp_path / "encoder.pt").is_file()


@pytest.mark.slow
def test_lines_after_the_last_checkpoint_and_incomplete_lines_are_rewritten(images: Path, tmp_path: Path) -> None:
    config = make_config(images, tmp_path, log_every_steps=1)
    stop = StopFlag()
    stop.ask("a test")
    with pytest.raises(YieldRequested):
        train(config, stop)
    lines = tmp_path / "metrics.jsonl"
    with lines.open("a") as stream:
        stream.write('{"step": 2, "loss": 0.5}\n{"step": 3, "lo')  # steps after the last checkpoint of a killed run
    train(config, StopFlag())
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["step"] for line in written if "loss" in line] == list(range(1, STEPS + 1))
    assert all(line.get("loss") != 0.5 for line in written)


def test_missing_data_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        train(make_config(tmp_path / "nowhere", tmp_path / "out"), StopFlag())
