"""Verify that the bundled Detectron2 is the official v0.6, file by file.

  python -m tools.setup.verify_detectron2

The package index has Detectron2 under another name, uploaded by a third party. This command compares the SHA-256 of all
its Python files (except projects/ and model_zoo/configs/) with that of the official tag v0.6. Exit code 2 if they
differ. To use your own Detectron2, run `DETECTRON2=own make setup`.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.command_line import run_command
from pretrain.runtime.storage import digest_file

OFFICIAL_DIGEST = "1cf1996bbd0f27d81d8456c8f39c011d4a29c110afe8c373fde2ea9b4b1c13bb"
"""SHA-256 over the lines "path sha256" of the 140 files at facebookresearch/detectron2, tag v0.6."""


def digest_package(root: Path) -> str:
    """Return the SHA-256 over "path sha256" lines, sorted by path, of the Python files under `root` (…/detectron2)."""
    lines = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        if not name.startswith(("projects/", "model_zoo/configs/")):
            lines.append(f"{name} {digest_file(path)}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def main(_arguments: Sequence[str]) -> int:
    """Compare the installed package with the official tag; print one line if they are equal."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        raise ValueError("Detectron2 is not installed; run `make setup`")
    root = Path(spec.origin).parent
    digest = digest_package(root)
    if digest != OFFICIAL_DIGEST:
        raise ValueError(
            f"{root}: its Python files have the digest {digest}, expected {OFFICIAL_DIGEST} (official v0.6); do not "
            "use it: remove .venv and run `make setup` again"
        )
    print("Detectron2 0.6: all Python files are identical to the official tag's")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
