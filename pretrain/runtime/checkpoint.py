"""Checkpoints of a pretraining: files with a digest, written atomically in the background; the newest valid one loads.

The model is stored in MoCo's format (facebookresearch/moco, main_moco.py): {"arch", "epoch", "state_dict"} with
module.encoder_q.*, module.encoder_k.*, module.queue (D, K), module.queue_ptr; so every converter for MoCo reads it.
It contains only tensors, numbers, text and containers, so torch.load(weights_only=True) reads it.
"""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.runtime.storage import (
    digest_path,
    has_digest,
    open_whole,
    sweep_temporary_files,
    write_digest,
    write_text,
)

logger = logging.getLogger(__name__)

PREFIX = "module."
"""DistributedDataParallel's prefix, in every key of a MoCo checkpoint."""


class CheckpointFolder:
    """checkpoints/checkpoint_<step>.pt with <file>.sha256 beside each; keeps the newest `keep` and the milestones."""

    def __init__(self, folder: str | Path, *, keep: int = 2, writes: bool = True) -> None:
        """Open the folder.

        Args:
            folder: the folder of the files.
            keep: number of newest checkpoints to keep, besides milestones.
            writes: whether this process writes; True on the main rank only.

        """
        self.folder, self.keep, self.writes = Path(folder), keep, writes
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        if writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep_temporary_files(self.folder)

    def save(self, step: int, content: Mapping[str, Any], *, milestone: bool = False) -> None:
        """Copy the tensors of `content`, then write the file in the background, after any earlier write has ended.

        Raises:
            OSError: the earlier write failed (disk full); older checkpoints are intact.

        """
        if not self.writes:
            return
        self.wait()
        copied = _copy(content)
        self._writer = threading.Thread(target=self._write, args=(step, copied, milestone), name="checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Wait until the last save is on disk; re-raise its error if it failed."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def load_newest(self) -> dict[str, Any] | None:
        """Return the newest intact checkpoint; damaged ones are skipped with a warning.

        Returns None if no checkpoint was ever completed.

        Raises:
            ValueError: completed checkpoints exist, but none is intact.

        """
        unfinished = [path for path in self.list_files() if not digest_path(path).is_file()]
        paths = [path for path in self.list_files() if path not in unfinished]
        for path in unfinished:
            logger.warning("%s: has no digest file, so its write was interrupted; ignoring it", path)
        for path in paths:
            try:
                return read_checkpoint(path)
            except ValueError as error:
                logger.warning("%s; trying the previous checkpoint", error)
        if paths:
            raise ValueError(
                f"{self.folder}: none of its {len(paths)} checkpoints is intact; restore one, or delete the folder to "
                "start from the beginning"
            )
        return None

    def list_files(self) -> list[Path]:
        """Return the checkpoints, newest first."""
        return sorted(self.folder.glob("checkpoint_*.pt"), reverse=True)

    def _write(self, step: int, content: dict[str, Any], milestone: bool) -> None:
        path = self.folder / f"checkpoint_{step:08d}.pt"
        try:
            with open_whole(path) as stream:
                torch.save(content, stream)
            write_digest(path)
            if milestone:
                write_text(_milestone_path(path), "kept for ever\n")
            self._remove_old()
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
            self._failure = OSError(
                f"{path}: the checkpoint could not be written ({str(error).splitlines()[0]}); free disk space and run "
                "again: the older checkpoints are intact"
            )
            self._failure.__cause__ = error
        except BaseException as error:
            self._failure = error

    def _remove_old(self) -> None:
        removable = [path for path in self.list_files() if not _milestone_path(path).exists()]
        for path in removable[self.keep :]:
            path.unlink(missing_ok=True)
            digest_path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint after verifying its digest.

    Raises:
        ValueError: the digest differs; the message names the file.

    """
    if not has_digest(path):
        raise ValueError(f"{path}: its bytes have changed since it was written (the digest differs)")
    return read_content(path)


def read_content(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint or encoder.pt, on the CPU, without verifying a digest."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def write_encoder(path: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write the query encoder alone, in MoCo's format, with the entries of `about` (arch, epoch, config)."""
    state = {name: tensor for name, tensor in to_moco_state(model).items() if ".encoder_q." in name}
    with open_whole(path) as stream:
        torch.save({**about, "state_dict": {name: tensor.cpu() for name, tensor in state.items()}}, stream)


def to_moco_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state under MoCo's names: the queue as (D, K), its pointer as (1,)."""
    state = {PREFIX + name: tensor for name, tensor in model.state_dict().items() if not name.startswith("queue.")}
    queue = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("queue.")}
    if queue:
        state[f"{PREFIX}queue"] = queue["queue.keys"].T
        state[f"{PREFIX}queue_ptr"] = queue["queue.pointer"].view(1)
        state[f"{PREFIX}queue_indices"], state[f"{PREFIX}queue_labels"] = queue["queue.indices"], queue["queue.labels"]
    return state


def from_moco_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Invert `to_moco_state`: return the state under the model's own names."""
    own = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    if "queue" in own:
        own["queue.keys"] = own.pop("queue").T.contiguous()
        own["queue.pointer"] = own.pop("queue_ptr").view(())
        own["queue.indices"], own["queue.labels"] = own.pop("queue_indices"), own.pop("queue_labels")
    return own


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(entry) for entry in value]
    return value


def _milestone_path(path: Path) -> Path:
    return path.with_name(path.name + ".milestone")
