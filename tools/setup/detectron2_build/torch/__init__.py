"""Substitute for torch while Detectron2's setup.py runs: a build requirement, never installed with the real torch.

Detectron2's setup.py imports torch to read its version and to declare a C++ extension. The source distribution that
PyPI carries has no C++ sources, and R-CNN needs none of them (ROIAlign and NMS come from torchvision), so a build needs
only these names. Declared in the project's pyproject.toml by `[tool.uv.extra-build-dependencies]`.
"""

from types import SimpleNamespace

__version__ = "2.15.0"
version = SimpleNamespace(hip=None, cuda=None)
cuda = SimpleNamespace(is_available=lambda: False)
