"""Checkpoints of a detector: whole files with a digest, the newest valid one first, only plain tensors inside.

fvcore's Checkpointer writes in place and trusts `last_checkpoint`; a kill at the wrong moment then loses the run.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from pretrain.runtime.storage import (
    digest_file,
    digest_path,
    has_digest,
    open_whole,
    sweep_temporary_files,
    write_digest,
    write_text,
)
from transfer.weights.files.containers import read_tree

logger = logging.getLogger(__name__)

STEP_PREFIX = "checkpoint_"
FINAL_NAME = "model_final"
"""Weights after PreciseBN, as they are evaluated; Detectron2's name."""


class DetectorCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer whose files appear whole, with <file>.sha256 beside; keeps the newest `keep` steps."""

    def __init__(self, model: Any, save_dir: str | Path, *, keep: int = 2, **checkpointables: Any) -> None:
        super().__init__(model, str(save_dir), **checkpointables)
        self.keep = max(keep, 1)
        if self.save_to_disk:
            Path(save_dir).mkdir(parents=True, exist_ok=True)
            sweep_temporary_files(save_dir)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write NAME.pth with the model, the checkpointables and `kwargs`, then its digest, then forget old steps."""
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict(), **kwargs}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        with open_whole(path) as stream:
            torch.save(content, stream)
        write_digest(path)
        self.tag_last_checkpoint(path.name)
        for old in self._steps()[self.keep :]:
            digest_path(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)

    def save_weights(self, path: str | Path) -> str:
        """Write the model alone; return the file's SHA-256 (an empty string where this rank writes nothing)."""
        if not self.save_to_disk:
            return ""
        with open_whole(path) as stream:
            torch.save({"model": self.model.state_dict()}, stream)
        return digest_file(path)

    def save_step(self, step: int, **kwargs: Any) -> None:
        """Write the checkpoint of `step` finished steps."""
        self.save(f"{STEP_PREFIX}{step:08d}", step=step, **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note the newest file's name as fvcore does, but whole; `get_checkpoint_file` does not rely on it."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Return whether some valid checkpoint is there."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Return the newest checkpoint whose digest is right, or an empty string; say which were passed over."""
        for path in self._steps():
            if has_digest(path):
                return str(path)
            logger.warning("%s: its digest is missing or wrong, so it is passed over for an older one", path)
        return ""

    def _steps(self) -> list[Path]:
        return sorted(Path(self.save_dir).glob(f"{STEP_PREFIX}*.pth"), reverse=True)

    def _load_file(self, f: str) -> dict[str, Any]:
        if f.endswith(".pkl"):
            content = read_tree(f)  # runs nothing of the file
            return dict(content) if "model" in content else {"model": content}
        content = torch.load(f, map_location="cpu", weights_only=True)
        return content if "model" in content else {"model": content}
