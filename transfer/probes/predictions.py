"""A classifier's prediction for each test image, stored with its result for paired comparisons of two backbones.

OUT/predictions.npz (read with numpy.load(path, allow_pickle=False)) holds one row per test image. The order
(class folders sorted by name, then paths sorted by bytes) is the same for every backbone:

  format      int64 (), FORMAT
  ids         bytes (n,), UTF-8, "<class folder>/<path below it>"
  labels      int32 (n,), the true class
  predicted   int32 (n,), the class with the highest score; image i is correct if predicted[i] == labels[i]
  classes     bytes (C,), UTF-8, the class folders that labels and predictions index
  test_sha256 bytes (), hexadecimal SHA-256 of classes, labels and ids: two files are comparable if it is equal

100 x mean(predicted == labels) equals top1 of metrics.json: of kNN, or of the reported linear head after the last
epoch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pretrain.input.images import ImageFolder
from pretrain.runtime.storage import open_whole

PREDICTIONS_NAME = "predictions.npz"
FORMAT = 1
FIELDS = ("format", "ids", "labels", "predicted", "classes", "test_sha256")


@dataclass(frozen=True)
class Predictions:
    """The content of a predictions.npz."""

    ids: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    predicted: npt.NDArray[np.int32]
    classes: tuple[str, ...]
    test_sha256: str

    def right(self) -> npt.NDArray[np.bool_]:
        """Return whether each image was classified correctly, (n,)."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right


def name_images(images: ImageFolder) -> list[str]:
    """Return "<class folder>/<path below it>" of every image, in order."""
    return [str(images.path(index).relative_to(images.root)) for index in range(len(images))]


def write_predictions(out: str | Path, images: ImageFolder, predicted: npt.NDArray[np.int64]) -> Path:
    """Write OUT/predictions.npz, where `predicted` (n,) are the classes of `images`; format: module docstring."""
    assert len(predicted) == len(images)
    path = Path(out) / PREDICTIONS_NAME
    with open_whole(path) as stream:
        np.savez_compressed(
            stream,
            format=np.int64(FORMAT),
            ids=np.array([_encode(name) for name in name_images(images)]),
            labels=images.labels.astype(np.int32),
            predicted=predicted.astype(np.int32),
            classes=np.array([_encode(name) for name in images.classes]),
            test_sha256=np.array(images.digest().encode()),
        )
    return path


def read_predictions(path: str | Path) -> Predictions:
    """Return the content of a predictions.npz, or of the one in the folder `path`.

    Raises:
        ValueError: no such file, or another format.

    """
    path = Path(path)
    path = path / PREDICTIONS_NAME if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as content:
            values = {name: content[name] for name in FIELDS}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(
            f"{path}: no readable predictions ({error}); run the kNN or linear evaluation again"
        ) from error
    if int(values["format"]) != FORMAT or len(values["labels"]) != len(values["predicted"]):
        raise ValueError(f"{path}: format {values['format']}, expected {FORMAT}; run the evaluation again")
    return Predictions(
        ids=tuple(map(_decode, values["ids"].tolist())),
        labels=values["labels"],
        predicted=values["predicted"],
        classes=tuple(map(_decode, values["classes"].tolist())),
        test_sha256=_decode(values["test_sha256"].item()),
    )


def _encode(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _decode(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
