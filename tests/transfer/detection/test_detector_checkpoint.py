from pathlib import Path

import pytest
import torch
from torch import nn

from transfer.detection.checkpoint import DetectorCheckpointer


def make_checkpoints(folder: Path, steps: int, keep: int = 2) -> DetectorCheckpointer:
    checkpointer = DetectorCheckpointer(nn.Linear(2, 2), folder, keep=keep)
    for step in range(1, steps + 1):
        checkpointer.save_step(step, seconds=1.5)
    return checkpointer


def test_newest_checkpoints_are_kept_with_their_digests(tmp_path: Path) -> None:
    checkpointer = make_checkpoints(tmp_path, 4)
    names = sorted(path.name for path in tmp_path.iterdir())
    stems = ["checkpoint_00000003.pth", "checkpoint_00000004.pth"]
    assert names == [name for stem in stems for name in (stem, f"{stem}.sha256")] + ["last_checkpoint"]
    content = torch.load(checkpointer.get_checkpoint_file(), weights_only=True)
    assert (content["step"], content["seconds"]) == (4, 1.5)


@pytest.mark.parametrize("damage", ["cut", "no digest", "empty digest", "binary digest"])
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(damage: str, tmp_path: Path) -> None:
    checkpointer = make_checkpoints(tmp_path, 3)
    newest = tmp_path / "checkpoint_00000003.pth"
    if damage == "cut":
        newest.write_bytes(newest.read_bytes()[:-50])
    elif damage == "no digest":
        newest.with_name(f"{newest.name}.sha256").unlink()
    else:
        newest.with_name(f"{newest.name}.sha256").write_bytes(b"" if damage == "empty digest" else b"\xff\xfe\0")
    assert Path(checkpointer.get_checkpoint_file()).name == "checkpoint_00000002.pth"


def test_empty_folder_has_no_checkpoint_and_leftovers_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".partial-checkpoint_00000001.pth.x").write_bytes(b"half")
    checkpointer = make_checkpoints(tmp_path, 0)
    assert not checkpointer.has_checkpoint()
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = make_checkpoints(tmp_path, 1)

    def fail(_content: object, stream: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save_step(2)
    assert Path(checkpointer.get_checkpoint_file()).name == "checkpoint_00000001.pth"
    assert not list(tmp_path.glob(".partial-*"))
