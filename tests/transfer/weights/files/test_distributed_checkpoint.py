import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint

from tests.making.family_checkpoints import make_state, under
from transfer.weights.convert import check_converted, convert
from transfer.weights.files.containers import describe_container, read_tree
from transfer.weights.inspection import inspect_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tree = {
        "state_dict": under("module.encoder_q.", make_state()),
        "optimizer": {"lr": 0.1, "steps": [1, 2]},
        "epoch": 3,
    }
    checkpoint.save(tree, checkpoint_id=tmp_path / "dcp", no_dist=True)
    return tmp_path / "dcp"


def test_a_folder_is_read_in_the_dictionaries_in_which_it_was_saved(folder: Path) -> None:
    tree = read_tree(folder)
    assert list(tree) == ["state_dict"]
    expected = under("module.encoder_q.", make_state())
    assert tree["state_dict"].keys() == expected.keys()
    assert all(torch.equal(tree["state_dict"][name], tensor) for name, tensor in expected.items())
    assert describe_container(folder) == "torch.distributed.checkpoint folder"
    assert "family     moco" in inspect_checkpoint(folder)


@pytest.mark.slow
def test_a_folder_converts_and_checks(folder: Path, tmp_path: Path) -> None:
    manifest = convert(folder, tmp_path / "b.pkl")
    assert (manifest.source["family"], manifest.matched) == ("moco", 120)
    assert check_converted(tmp_path / "b.pkl")[1]
    (folder / "more").write_text("x")
    with pytest.raises(ValueError, match="the source is another file now"):
        check_converted(tmp_path / "b.pkl")


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_folder_whose_metadata_or_values_would_run_code_runs_nothing(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    checkpoint.save({"a": torch.ones(2), "evil": Evil(mark)}, checkpoint_id=tmp_path / "evil", no_dist=True)
    assert list(read_tree(tmp_path / "evil")) == ["a"]
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(ValueError, match=r"its \.metadata names \w+\.system"):
        read_tree(folder)
    assert not mark.exists()


def test_a_damaged_or_foreign_folder_is_refused_with_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a folder without \.metadata.*it holds dcp"):
        read_tree(tmp_path)
    data = next(folder.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cut short"):
        read_tree(folder)
