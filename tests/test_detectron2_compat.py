"""Detectron2 imports on current NumPy, Pillow and torch, compiled or not."""

import numpy as np
import pytest
from PIL import Image

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
