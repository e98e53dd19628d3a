"""Linear and kNN evaluation with several ranks, features on disk, and predictions per test image."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.input.images import list_images
from pretrain.monitoring.knn_vote import classify_knn, classify_knn_in_blocks
from pretrain.runtime.stopping import StopFlag
from tests.making.probe_inputs import save_resnet18, write_digit_classes
from tests.making.ranks import run_ranks
from transfer.probes.feature_table import FeatureTable, finish_table, open_rows, read_table
from transfer.probes.features import share_rows
from transfer.probes.knn_run import KnnConfig, run_knn
from transfer.probes.linear_heads import LinearConfig, fit_standardiser
from transfer.probes.linear_run import LinearTraining
from transfer.probes.predictions import read_predictions, write_predictions

SMALL = {"crop_px": 32, "resize_px": 36, "workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_classes(tmp_path_factory.mktemp("images"), train=50, val=23)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_resnet18(tmp_path_factory.mktemp("weights"))


def write_table(folder: Path, rows: torch.Tensor, ranks: int) -> FeatureTable:
    shares = share_rows(len(rows), ranks)
    for rank, share in enumerate(shares):
        with open_rows(folder, rank, ranks) as stream:
            stream.write(rows[share.start : share.stop].numpy().data)
    finish_table(folder, {"weights": "a"}, rows.shape[1], [len(share) for share in shares])
    table = read_table(folder, {"weights": "a"})
    assert table is not None
    return table


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 20), ranks=st.integers(1, 5), bounds=st.tuples(st.integers(0, 25), st.integers(0, 25)))
def test_table_gives_the_rows_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, count: int, ranks: int, bounds: tuple[int, int]
) -> None:
    rows = torch.arange(3.0 * count).reshape(count, 3)
    table = write_table(tmp_path_factory.mktemp("table"), rows, ranks)
    assert len(table) == count
    assert torch.equal(table[bounds[0] : bounds[1]], rows[bounds[0] : bounds[1]])
    if count:
        order = torch.randint(0, count, (7,))
        assert torch.equal(table[order], rows[order])


def test_table_of_other_weights_or_with_a_cut_file_is_not_used(tmp_path: Path) -> None:
    write_table(tmp_path, torch.rand(9, 3), 2)
    assert read_table(tmp_path, {"weights": "b"}) is None
    path = next(tmp_path.glob("rows-00001*"))
    path.write_bytes(path.read_bytes()[:-1])
    assert read_table(tmp_path, {"weights": "a"}) is None


@given(rows=st.integers(0, 300), ranks=st.integers(1, 9), unit=st.integers(1, 70))
def test_shares_cover_all_rows_once_in_whole_units(rows: int, ranks: int, unit: int) -> None:
    shares = share_rows(rows, ranks, unit)
    assert [row for share in shares for row in share] == list(range(rows))
    assert all(share.start % unit == 0 for share in shares if len(share))


def test_standardiser_of_a_table_has_the_bits_of_the_tensors(tmp_path: Path) -> None:
    rows = torch.randn(5000, 4) * 3 + 1
    whole, parts = fit_standardiser(rows), fit_standardiser(write_table(tmp_path, rows, 3))
    assert torch.equal(whole.mean, parts.mean)
    assert torch.equal(whole.scale, parts.scale)


@pytest.mark.parametrize("block", [1, 7, 100, 999, 5000])
def test_neighbours_of_a_bank_in_blocks_are_those_of_the_whole_bank(block: int) -> None:
    generator = torch.Generator().manual_seed(3)
    bank, queries = (torch.randn(count, 64, generator=generator) for count in (999, 130))
    labels = torch.randint(0, 7, (999,), generator=generator)
    parts = ((bank[at : at + block], labels[at : at + block]) for at in range(0, 999, block))
    common = {"k": 50, "temperature": 0.07, "chunk": 32}
    assert torch.equal(
        classify_knn_in_blocks(queries, parts, classes=7, **common), classify_knn(queries, bank, labels, **common)
    )


def test_predictions_name_every_test_image_once_in_the_order_of_the_list(data: Path, tmp_path: Path) -> None:
    images = list_images(data / "val")
    predicted = np.arange(23) % 10
    written = read_predictions(write_predictions(tmp_path, images, predicted))
    assert written.ids == tuple(str(path.relative_to(data / "val")) for path in sorted((data / "val").glob("*/*")))
    assert written.predicted.tolist() == predicted.tolist()
    assert [written.classes[label] for label in written.labels] == [name.split("/")[0] for name in written.ids]
    fewer = read_predictions(write_predictions(tmp_path, images.select(np.arange(22)), predicted[:22]))
    assert fewer.test_sha256 != written.test_sha256
    (tmp_path / "predictions.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"predictions\.npz: no readable predictions"):
        read_predictions(tmp_path)


def test_saved_predictions_have_the_accuracy_of_the_result(data: Path, weights: Path, tmp_path: Path) -> None:
    knn = KnnConfig(protocol="knn-digits", data=str(data), out=str(tmp_path / "knn"), k=5, **SMALL)
    linear = LinearConfig(
        data=str(data), out=str(tmp_path / "linear"), augment="none", standardise=True, epochs=8, batch_size=10,
        lr=0.001, sweep=(0.05, 0.2), **SMALL,
    )  # fmt: skip
    results = {
        "knn": run_knn(knn, weights, StopFlag()),
        "linear": LinearTraining(linear, weights, StopFlag()).run(),
    }
    for name, result in results.items():
        predictions = read_predictions(tmp_path / name)
        assert 100 * predictions.right().mean() == pytest.approx(result.metrics["top1"], abs=1e-9), name
        assert len(predictions.ids) == 23
        assert not (tmp_path / name / "features").exists(), "the features go when the result is there"
    assert read_predictions(tmp_path / "knn").test_sha256 == read_predictions(tmp_path / "linear").test_sha256


LINEAR = """
import sys
from pathlib import Path
from pretrain.runtime import distributed
from pretrain.runtime import progress
from pretrain.runtime.stopping import StopFlag
from transfer.probes import linear_run
from transfer.weights.frozen_backbone import choose_device
from transfer.probes.linear_heads import LinearConfig

data, weights, mode = sys.argv[1:]
config = LinearConfig(
    data=data, out="out", augment="crop_flip", epochs=1, batch_size=10, crop_px=32, resize_px=36, workers=0,
    device="cpu", lr=0.1,
)
stop = StopFlag()
with distributed.process_group(choose_device("cpu")):
    rank = distributed.rank()
    linear_run.CHECKPOINT_MINUTES = 0.0 if rank == int(mode) else 1e9  # the ranks' clocks disagree
    if rank > 0:
        def refuse(*_):
            raise SystemExit("only the main rank writes and sweeps")
        progress.write_json = linear_run.write_text = linear_run.sweep_temporary_files = refuse
        linear_run.write_result = linear_run.write_predictions = refuse
    result = linear_run.LinearTraining(config, Path(weights), stop).run()
print("rank", rank, "has", result.metrics["top1"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 1])
def test_ranks_whose_clocks_disagree_save_together(data: Path, weights: Path, tmp_path: Path, late: int) -> None:
    ended = run_ranks(LINEAR, tmp_path, str(data), str(weights), str(late), timeout_s=300)
    assert [code for code, _ in ended] == [0, 0], "\n".join(text for _, text in ended)
    top1 = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]["top1"]
    assert all(f"has {top1}" in text for _, text in ended)
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["phase"] == "done"


KNN = """
import os
import signal
import sys
from pathlib import Path
from pretrain.runtime import distributed
from pretrain.runtime.stopping import StopFlag
from pretrain.runtime.command_line import run_command
from transfer.probes import knn_run
from transfer.weights.frozen_backbone import choose_device

data, weights, mode = sys.argv[1:]
knn_run.BANK_ROWS = 16
config = knn_run.KnnConfig(
    protocol="knn-digits", data=data, out="out", k=5, chunk=4, crop_px=32, resize_px=36, workers=0, device="cpu",
    feature_batch=8,
)
stop = StopFlag().install()
if mode == "stop" and os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGUSR2)

def run(_):
    with distributed.process_group(choose_device("cpu")):
        print("top-1", knn_run.run_knn(config, Path(weights), stop).metrics["top1"])

sys.exit(run_command(run, None))
"""


@pytest.mark.slow
def test_three_ranks_find_the_neighbours_of_one_and_stop_together(data: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "three").mkdir()
    ended = run_ranks(KNN, tmp_path / "three", str(data), str(weights), "stop", ranks=3, timeout_s=300)
    assert [code for code, _ in ended] == [75, 75, 75], "\n".join(text for _, text in ended)
    ended = run_ranks(KNN, tmp_path / "three", str(data), str(weights), "go", ranks=3, timeout_s=300)
    assert [code for code, _ in ended] == [0, 0, 0], "\n".join(text for _, text in ended)
    config = KnnConfig(protocol="knn-digits", data=str(data), out=str(tmp_path / "one"), k=5, chunk=4, **SMALL)
    result = run_knn(config, weights, StopFlag())
    assert all(f"top-1 {result.metrics['top1']}" in text for _, text in ended)
    one, three = (read_predictions(tmp_path / name) for name in ("one", "three/out"))
    assert one.predicted.tolist() == three.predicted.tolist()


MEMORY = """
import resource
import sys
from pathlib import Path
import torch
from transfer.probes import knn_run
from transfer.probes.feature_table import FeatureTable
from transfer.probes.features import Features

rows, width = 120_000, 512
table = FeatureTable(Path(sys.argv[1]), width, [("bank", rows)])
train = Features(table, torch.arange(rows) % 10, tuple("0123456789"), None)
val = Features(table[:64], torch.arange(64) % 10, train.classes, None)
knn_run.BANK_ROWS = 8192
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
predicted = knn_run.predict_knn(train, val, knn_run.KnnConfig(k=1, chunk=64), torch.device("cpu"))
assert predicted.tolist() == val.labels.tolist()
grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print("grown by", grown_mib)
assert grown_mib < 110, grown_mib  # two blocks of 16 MiB and the similarities; the bank has 234
"""


@pytest.mark.slow
def test_bank_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with (tmp_path / "bank").open("wb") as stream:
        for _ in range(12):
            stream.write(generator.standard_normal((10_000, 512), dtype=np.float32).data)
    ended = run_ranks(MEMORY, tmp_path, str(tmp_path), ranks=1, timeout_s=300)
    assert ended[0][0] == 0, ended[0][1]
