"""Compatibility layer that lets Detectron2 v0.6 and main run on current NumPy, Pillow and torch.

Import this module before any `detectron2` import. It restores:
1. `PIL.Image.LINEAR` (removed in Pillow 10; fixed in detectron2 main since 2023-07);
2. `np.bool`, `np.int`, `np.float`, `np.str`, `np.object` (removed in NumPy 1.24; fixed in detectron2 main since
   2022-12);
3. a missing `detectron2._C`: a stand-in module whose functions raise an explanation when called. R-CNN does not need
   the extension: ROIAlign and NMS come from torchvision.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from PIL import Image

INSTALL_HINT = "run `make setup`, or install Detectron2 from its repository (any version from v0.6 to main)"


class _MissingExtension(ModuleType):
    """Stand-in for detectron2._C when it was not compiled."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_args: object, **_options: object) -> NoReturn:
            raise RuntimeError(
                f"detectron2._C.{name} was called, but this Detectron2 has no compiled extension; only rotated boxes, "
                "deformable convolution and COCOeval_opt need it. Install Detectron2 from its repository with a "
                "compiler."
            )

        return refuse


def is_installed() -> bool:
    """Return whether Detectron2 is installed."""
    return importlib.util.find_spec("detectron2") is not None


def is_compiled() -> bool:
    """Return whether the installed Detectron2 has its C++ extension."""
    if isinstance(sys.modules.get("detectron2._C"), _MissingExtension):
        return False
    return is_installed() and importlib.util.find_spec("detectron2._C") is not None


def prepare() -> None:
    """Restore the names that Detectron2 v0.6 expects in Pillow, NumPy and itself; may be called repeatedly.

    Raises:
        ImportError: Detectron2 is not installed; the text says how to install it.

    """
    if not is_installed():
        raise ImportError(f"Detectron2 is not installed: {INSTALL_HINT}")
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.Resampling.BILINEAR  # type: ignore[attr-defined]
    for name, builtin in {"int": int, "float": float, "str": str, "object": object, "bool": bool}.items():
        if name not in np.__dict__:
            setattr(np, name, builtin)
    if not is_compiled() and "detectron2._C" not in sys.modules:
        stand_in = _MissingExtension("detectron2._C")
        sys.modules["detectron2._C"] = stand_in
        import detectron2  # after registering the stand-in, so that `from detectron2 import _C` finds it

        detectron2._C = stand_in


if is_installed():
    prepare()
