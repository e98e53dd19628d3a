"""Declare extensions without sources, so that nothing is compiled."""

import shutil
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

CUDA_HOME = None
ROCM_HOME = None


def CppExtension(name: str, *_args: object, **_options: object) -> Extension:  # noqa: N802 (torch's name)
    """Return an extension without sources."""
    return Extension(name, sources=[])


CUDAExtension = CppExtension


class BuildExtension(build_ext):
    """Build nothing, and omit Detectron2's sample scripts from the wheel."""

    def run(self) -> None:
        """Remove the extension (transfer/detectron2_compat.py substitutes it) and the top-level package `tools`.

        Detectron2's setup.py installs its sample scripts as a package `tools`, which would shadow ours.
        """
        self.extensions = []
        shutil.rmtree(Path(self.build_lib) / "tools", ignore_errors=True)
