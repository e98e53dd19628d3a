"""With trust_pickle=true, objects of any class are read as dictionaries beside the weights; none is run."""

import argparse
import pickle
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from yacs.config import CfgNode

from tests.transfer.weights.test_damaged_checkpoints import WEIGHTS, save
from transfer.weights.files.containers import read_tree


class AttributeDict(dict[str, Any]):
    """As Lightning and solo-learn have it."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class EasyDict(dict[str, Any]):
    """As the package of this name: items are attributes too."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.__dict__.update(items)


class Slotted:
    __slots__ = ("lr",)

    def __init__(self) -> None:
        self.lr = 0.1


def strange_values() -> dict[str, Any]:
    return {
        "Namespace": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=1)),
        "AttributeDict": AttributeDict(lr=0.1, nested=AttributeDict(a=1)),
        "EasyDict": EasyDict(lr=0.1, nested=EasyDict(a=1)),
        "CfgNode": CfgNode({"lr": 0.1, "nested": CfgNode({"a": 1})}),
        "DictConfig": OmegaConf.create({"lr": 0.1, "nested": {"a": 1}, "list": [1, 2]}),
        "defaultdict": defaultdict(list, lr=0.1, other=defaultdict(dict)),
        "Counter": Counter("aab"),
        "Path": Path("/data"),
        "slots": Slotted(),
        "numpy scalar": np.float64(0.1),
        "set": {1, "a", (1, 2)},
        "dtype": torch.float32,
        "slice": slice(1, 2),
        "range": range(3),
        "bytearray": bytearray(b"x"),
        "function": save,
        "generator": np.random.RandomState(0).get_state(),
    }


@pytest.mark.parametrize("name", strange_values())
@pytest.mark.parametrize(("protocol", "zipped"), [(2, True), (2, False), (4, True), (5, True)])
def test_trust_pickle_reads_every_class_beside_the_weights(
    name: str, protocol: int, zipped: bool, tmp_path: Path
) -> None:
    tree = {"a": WEIGHTS, "config": strange_values()[name], "epoch": 4}
    path = tmp_path / "x.pt"
    try:
        save(path, tree, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    except (TypeError, pickle.PicklingError):
        pytest.skip("this protocol cannot write it")
    read = read_tree(path, trust_pickle=True)
    assert torch.equal(read["a"], WEIGHTS)
    assert read["epoch"] == 4
    if name in ("Namespace", "AttributeDict", "EasyDict", "CfgNode"):
        assert read["config"]["lr"] == 0.1
        assert read["config"]["nested"]["a"] == 1
