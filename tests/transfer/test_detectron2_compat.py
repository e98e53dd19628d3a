"""Detectron2 imports on current NumPy, Pillow and torch, compiled or not."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pretrain.runtime.machine import PROJECT_ROOT
from transfer import detectron2_compat

pytestmark = pytest.mark.skipif(not detectron2_compat.is_installed(), reason=detectron2_compat.INSTALL_HINT)


def test_removed_names_are_back() -> None:
    assert Image.LINEAR == Image.Resampling.BILINEAR
    assert np.zeros(1).astype(np.bool).dtype == bool
    assert (np.int, np.float, np.object) == (int, float, object)  # noqa: NPY001 (the aliases are the point)


def test_detectron2_layers_import_and_build() -> None:
    from detectron2.layers import ROIAlign

    assert ROIAlign((7, 7), 1.0, 0)


@pytest.mark.skipif(detectron2_compat.is_compiled(), reason="this Detectron2 has its extension")
def test_missing_extension_says_what_it_is_for_when_called() -> None:
    from detectron2 import _C

    with pytest.raises(RuntimeError, match=r"_C\.COCOevalAccumulate was called, but .* no compiled extension"):
        _C.COCOevalAccumulate()


def test_preparing_twice_changes_nothing() -> None:
    before = np.bool
    detectron2_compat.prepare()
    assert np.bool is before


COMPILED = """
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
extension = ModuleType("detectron2._C")
extension.__spec__ = ModuleSpec("detectron2._C", None)
sys.modules["detectron2._C"] = extension
from transfer import detectron2_compat
assert detectron2_compat.is_compiled()
from detectron2.layers import nms_rotated
assert nms_rotated
assert sys.modules["detectron2._C"] is extension
"""


@pytest.mark.slow
def test_an_extension_that_is_there_is_left_in_place() -> None:
    words = [sys.executable, "-W", "ignore", "-c", COMPILED]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=PROJECT_ROOT)
    assert done.returncode == 0, done.stderr
