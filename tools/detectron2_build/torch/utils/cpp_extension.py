"""Declare extensions that compile nothing."""

from setuptools import Extension
from setuptools.command.build_ext import build_ext

CUDA_HOME = None
ROCM_HOME = None


def CppExtension(name: str, *_args: object, **_options: object) -> Extension:  # noqa: N802 (torch's name)
    """Return an extension without sources."""
    return Extension(name, sources=[])


CUDAExtension = CppExtension


class BuildExtension(build_ext):
    """Build nothing."""

    def run(self) -> None:
        """Leave the extension out; transfer/detectron2_compat.py puts a stand-in for detectron2._C."""
        self.extensions = []
