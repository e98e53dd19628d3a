import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from detectron2.data import get_detection_dataset_dicts

from pretrain.runtime.machine import PROJECT_ROOT
from tests.making.detector_runs import make_small_digits
from transfer.detection.data.datasets import register_datasets
from transfer.detection.data.packed_entries import pack_entries, read_on_node
from transfer.detection.data.training_stream import load_training_entries
from transfer.detection.protocols import read_protocol

ENTRIES: list[dict[str, Any]] = [{"image_id": number, "annotations": [{"bbox": [1.5, number]}]} for number in range(5)]


def test_packed_entries_are_the_sequence_that_was_packed() -> None:
    packed = pack_entries(iter(ENTRIES))
    assert list(packed) == ENTRIES
    assert [packed[index] for index in range(-5, 5)] == ENTRIES + ENTRIES
    assert list(packed[1:4:2]) == ENTRIES[1:4:2]
    assert list(packed.select([4, 0]).select([1])) == [ENTRIES[0]]
    assert len(pack_entries([])) == 0
    packed[0]["image_id"] = 99
    assert packed[0] == ENTRIES[0]
    with pytest.raises(IndexError):
        packed[5]


def test_one_process_reads_for_itself() -> None:
    assert read_on_node(lambda: (ENTRIES, "facts")) == (ENTRIES, "facts")


@pytest.mark.parametrize("protocol", ["voc-c4-digits@moco", "coco-c4-digits@moco"])
@pytest.mark.parametrize("filter_empty", [True, False])
def test_training_entries_are_detectron2s(protocol: str, filter_empty: bool, tmp_path: Path) -> None:
    cfg = read_protocol(protocol)
    cfg.DATASETS.ROOT = str(make_small_digits(tmp_path / "data"))
    register_datasets(cfg)
    names = list(cfg.DATASETS.TRAIN)
    expected = get_detection_dataset_dicts(names, filter_empty=filter_empty)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    entries, wide = load_training_entries(cfg)
    assert [entries[index] for index in range(len(entries))] == expected
    assert wide == [entry["width"] > entry["height"] for entry in expected]


RANK_PROGRAM = """
import sys
from pathlib import Path
import torch
from pretrain.runtime import distributed
from transfer.detection.data.packed_entries import PackedEntries, read_on_node
folder = Path(sys.argv[1])
def read():
    with (folder / "reads").open("a") as stream:
        stream.write("x")
    return [{"image_id": number} for number in range(1000)], "facts"
def refuse():
    raise ValueError("the file is damaged")
with distributed.process_group(torch.device("cpu")):
    entries, facts = read_on_node(read)
    assert isinstance(entries, PackedEntries) and facts == "facts"
    assert [entry["image_id"] for entry in entries] == list(range(1000))
    try:
        read_on_node(refuse)
    except ValueError as error:
        (folder / f"refused-{distributed.rank()}").write_text(str(error))
"""


@pytest.mark.slow
def test_one_rank_of_a_machine_reads_and_what_it_raises_is_raised_on_all(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(RANK_PROGRAM)
    root = PROJECT_ROOT
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {"PYTHONPATH": str(root), "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    run([*launch, str(program), str(tmp_path)], check=True, cwd=root, env=environment, timeout=240)
    assert (tmp_path / "reads").read_text() == "x"
    for rank in range(2):
        assert (tmp_path / f"refused-{rank}").read_text() == "the file is damaged"
    assert not list(tmp_path.glob("mochi-entries-*"))
