"""The Python API of the README imports without Detectron2 and is typed."""

import inspect
import subprocess
import sys
import typing

import pytest

from pretrain.mixing import mix
from pretrain.runtime.machine import PROJECT_ROOT
from transfer.metrics.coco_ap import evaluate_coco
from transfer.metrics.voc_files import evaluate_voc
from transfer.weights.backbone import load_backbone, read_backbone
from transfer.weights.convert import to_detectron2

API = (mix, load_backbone, read_backbone, to_detectron2, evaluate_voc, evaluate_coco)


def test_api_imports_without_detectron2() -> None:
    imports = "\n".join(f"from {function.__module__} import {function.__name__}" for function in API)
    probe = f"import sys\nsys.modules['detectron2'] = None\n{imports}\nprint('imported')"
    answer = subprocess.run(
        [sys.executable, "-c", probe], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert answer.stdout == "imported\n", answer.stderr


@pytest.mark.parametrize("function", API, ids=lambda function: function.__name__)
def test_api_is_documented_and_typed(function: typing.Callable[..., object]) -> None:
    assert inspect.getdoc(function)
    hints = typing.get_type_hints(function)
    assert {*inspect.signature(function).parameters, "return"} == hints.keys()


@pytest.mark.parametrize("package", ["pretrain", "transfer"])
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (PROJECT_ROOT / package / "py.typed").is_file()
