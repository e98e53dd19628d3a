"""Checkpoints of a pretraining: whole files with a digest, written in the background, the newest valid one first.

The model lies in MoCo's own format (facebookresearch/moco, main_moco.py): {"arch", "epoch", "state_dict"} with
module.encoder_q.*, module.encoder_k.*, module.queue (D, K), module.queue_ptr; so every converter of MoCo's reads it.
Only tensors, numbers, text and containers: torch.load(weights_only=True) suffices.
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
"""DistributedDataParallel's, in every key of a checkpoint of MoCo's."""


class CheckpointFolder:
    """checkpoints/checkpoint_<step>.pt with <file>.sha256 beside each; keeps the newest `keep` and the milestones."""

    def __init__(self, folder: str | Path, *, keep: int = 2, writes: bool = True) -> None:
        """Open the folder.

        Args:
            folder: where the files lie.
            keep: how many of the newest stay; milestones are not counted.
            writes: whether this process writes (the main one does).

        """
        self.folder, self.keep, self.writes = Path(folder), keep, writes
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        if writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep_temporary_files(self.folder)

    def save(self, step: int, content: Mapping[str, Any], *, milestone: bool = False) -> None:
        """Copy the tensors of `content` now, write the file in the background; an earlier write ends first.

        Raises:
            OSError: the earlier write failed (disk full); older checkpoints are whole.

        """
        if not self.writes:
            return
        self.wait()
        copied = _copy(content)
        self._writer = threading.Thread(target=self._write, args=(step, copied, milestone), name="checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Wait until the last save is on the disk; raise what it raised."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def load_newest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole; one that is not is named in the log, and the one before taken.

        None when no checkpoint was ever finished.

        Raises:
            ValueError: there are finished checkpoints, but none of them is whole any more.

        """
        unfinished = [path for path in self.list_files() if not digest_path(path).is_file()]
        paths = [path for path in self.list_files() if path not in unfinished]
        for path in unfinished:
            logger.warning("%s: has no digest beside it, so its writing was cut short; it is left out", path)
        for path in paths:
            try:
                return read_checkpoint(path)
            except ValueError as error:
                logger.warning("%s; trying the one before", error)
        if paths:
            raise ValueError(
                f"{self.folder}: none of its {len(paths)} checkpoints is whole; restore one, or delete the folder to "
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
            self._forget_old()
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
            self._failure = OSError(
                f"{path}: the checkpoint could not be written ({str(error).splitlines()[0]}); make room on the disk "
                "and run again: the older checkpoints are whole"
            )
            self._failure.__cause__ = error
        except BaseException as error:
            self._failure = error

    def _forget_old(self) -> None:
        passing = [path for path in self.list_files() if not _milestone_path(path).exists()]
        for path in passing[self.keep :]:
            path.unlink(missing_ok=True)
            digest_path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint whose bytes have the digest beside it.

    Raises:
        ValueError: another digest, or no content; the text names the file.

    """
    if not has_digest(path):
        raise ValueError(f"{path}: its bytes have changed since it was written (the digest differs)")
    return read_content(path)


def read_content(path: Path) -> dict[str, Any]:
    """Return what a checkpoint or an encoder.pt of ours holds, on the CPU; no digest is asked for."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def write_encoder(path: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write the query encoder alone, in MoCo's format, with `about` (arch, epoch, config) beside it."""
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
    """Return what `to_moco_state` renamed, under the model's own names."""
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
