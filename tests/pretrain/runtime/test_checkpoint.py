"""Checkpoints are written atomically, the newest intact one is loaded, and the format is MoCo's."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.config import MixingConfig, ModelConfig
from pretrain.moco import MoCo
from pretrain.runtime.checkpoint import CheckpointFolder, from_moco_state, read_content, to_moco_state, write_encoder

MODEL = ModelConfig(arch="resnet18", dim=8, queue_len=16)


def save(folder: CheckpointFolder, step: int, *, milestone: bool = False) -> None:
    folder.save(step, {"step": step, "weights": torch.full((4,), float(step))}, milestone=milestone)
    folder.wait()


def test_newest_two_and_milestones_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in range(1, 6):
        save(folder, step, milestone=step == 2)
    assert [int(path.stem.split("_")[1]) for path in folder.list_files()] == [5, 4, 2]
    assert len(list(tmp_path.glob("*.sha256"))) == 3


def test_damaged_newest_is_logged_and_the_previous_one_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    save(folder, 2)
    newest = folder.list_files()[0]
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        content = folder.load_newest()
    assert content is not None
    assert content["step"] == 1
    assert "checkpoint_00000002.pt: its bytes have changed" in caplog.text


@pytest.mark.parametrize("note", [b"", b"\n", b"\xff\xfe\0"])
def test_damaged_digest_falls_back_to_the_previous_checkpoint(tmp_path: Path, note: bytes) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    save(folder, 2)
    (tmp_path / "checkpoint_00000002.pt.sha256").write_bytes(note)
    content = folder.load_newest()
    assert content is not None
    assert content["step"] == 1


def test_incompletely_written_checkpoint_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    (tmp_path / "checkpoint_00000001.pt.sha256").unlink()
    with caplog.at_level(logging.WARNING):
        assert folder.load_newest() is None
    assert "its write was interrupted" in caplog.text


def test_folder_of_damaged_checkpoints_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    folder.list_files()[0].write_bytes(b"?")
    with pytest.raises(ValueError, match="none of its 1 checkpoints is intact"):
        folder.load_newest()


def test_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path).load_newest() is None


def test_saved_tensors_are_those_of_the_moment_of_saving(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    weights = torch.zeros(200_000)
    folder.save(1, {"weights": weights})
    weights += 1  # the next step, while the file is written
    folder.wait()
    assert read_content(folder.list_files()[0])["weights"].sum() == 0


def test_full_disk_is_raised_and_keeps_the_older_checkpoint(tmp_path: Path) -> None:
    save(CheckpointFolder(tmp_path), 1)
    script = (
        "import resource, signal, sys, torch; from pretrain.runtime.checkpoint import CheckpointFolder; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "folder = CheckpointFolder(sys.argv[1]); folder.save(2, {'weights': torch.zeros(100_000)}); folder.wait()"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "checkpoint_00000002.pt: the checkpoint could not be written" in ended.stderr
    assert "free disk space and run again: the older checkpoints are intact" in ended.stderr
    content = CheckpointFolder(tmp_path).load_newest()
    assert content is not None
    assert content["step"] == 1
    assert not list(tmp_path.glob(".partial-*"))


def test_state_has_mocos_format_and_round_trips() -> None:
    model = MoCo(MODEL, MixingConfig())
    model.queue.enqueue(torch.nn.functional.normalize(torch.randn(5, 8), dim=1), torch.arange(5), torch.arange(5))
    state = to_moco_state(model)
    assert state["module.queue"].shape == (8, 16)
    assert state["module.queue_ptr"].tolist() == [5]
    assert {"module.encoder_q.conv1.weight", "module.encoder_k.fc.2.bias"} <= state.keys()
    other = MoCo(MODEL, MixingConfig())
    other.load_state_dict(from_moco_state(state))
    assert all(
        torch.equal(left, right)
        for left, right in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_encoder_file_holds_the_query_encoder_alone(tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder.pt", MoCo(MODEL, MixingConfig()), {"arch": "resnet18", "epoch": 3})
    content = read_content(tmp_path / "encoder.pt")
    assert content["epoch"] == 3
    assert all(name.startswith("module.encoder_q.") for name in content["state_dict"])
