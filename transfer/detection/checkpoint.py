"""Write detector checkpoints atomically with a digest, and resume from the newest valid one; files hold only tensors.

fvcore's Checkpointer writes in place and relies on `last_checkpoint`, so a kill during a write can lose the run.
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
"""Weights after PreciseBN, as evaluated; Detectron2's file name."""


class DetectorCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes and a <file>.sha256 each; keeps the newest `keep` steps."""

    def __init__(self, model: Any, save_dir: str | Path, *, keep: int = 2, **checkpointables: Any) -> None:
        super().__init__(model, str(save_dir), **checkpointables)
        self.keep = max(keep, 1)
        if self.save_to_disk:
            Path(save_dir).mkdir(parents=True, exist_ok=True)
            sweep_temporary_files(save_dir)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write NAME.pth with the model, the checkpointables and `kwargs`, then its digest; then delete old steps."""
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
        """Write the model only; return the file's SHA-256, or an empty string on ranks that do not write."""
        if not self.save_to_disk:
            return ""
        with open_whole(path) as stream:
            torch.save({"model": self.model.state_dict()}, stream)
        return digest_file(path)

    def save_step(self, step: int, **kwargs: Any) -> None:
        """Write the checkpoint after `step` completed steps."""
        self.save(f"{STEP_PREFIX}{step:08d}", step=step, **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the newest file's name as fvcore does, but atomically; `get_checkpoint_file` does not use it."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Return whether a valid checkpoint exists."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Return the newest checkpoint with a valid digest, or an empty string; log the ones skipped."""
        for path in self._steps():
            if has_digest(path):
                return str(path)
            logger.warning("%s: digest missing or wrong; skipped in favour of an older checkpoint", path)
        return ""

    def _steps(self) -> list[Path]:
        return sorted(Path(self.save_dir).glob(f"{STEP_PREFIX}*.pth"), reverse=True)

    def _load_file(self, f: str) -> dict[str, Any]:
        if f.endswith(".pkl"):
            content = read_tree(f)  # executes no code from the file
            return dict(content) if "model" in content else {"model": content}
        content = torch.load(f, map_location="cpu", weights_only=True)
        return content if "model" in content else {"model": content}
