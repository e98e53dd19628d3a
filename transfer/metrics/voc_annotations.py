"""Read VOC's image sets and XML annotations; accept what Detectron2's training accepts, else raise an explanation."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """One object of an image."""

    name: str
    difficult: bool
    box: tuple[float, float, float, float]
    """xmin, ymin, xmax, ymax; pixels count from 1, both corners lie inside."""


@dataclass(frozen=True, kw_only=True)
class VocAnnotation:
    """One image's annotation."""

    size: tuple[int, int] | None
    """Width and height in pixels; None if missing or invalid."""
    objects: tuple[VocObject, ...]


def read_image_set(root: Path, split: str) -> tuple[str, ...]:
    """Return the names in ROOT/ImageSets/Main/<split>.txt, one per line.

    Raises:
        ValueError: the file is missing or empty, a line holds more than a name, or a name is repeated.

    """
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such image set; expected VOC's layout below {root}. `python -m tools.check_data ROOT` lists "
            "what is missing"
        )
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    names = tuple(words[0] for words in lines)
    longer = [" ".join(words) for words in lines if len(words) > 1]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or longer or twice:
        what = f"{len(twice)} names occur more than once, e.g. {twice[0]}" if twice else "it holds no image"
        what = f"{len(longer)} lines hold more than a name, e.g. {longer[0]!r}" if longer else what
        raise ValueError(f"{path}: {what}; expected one image name per line, each once")
    return names


def read_annotation(path: Path) -> VocAnnotation:
    """Return an annotation; a missing or empty <difficult> counts as 0, and corners may be fractional.

    Raises:
        ValueError: the file is missing or invalid XML, or an object has no name, no box or an invalid <difficult>.

    """
    try:
        tree: Any = ElementTree.parse(path)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot read the annotation ({error.strerror}); `python -m tools.check_data ROOT` lists all "
            "missing files"
        ) from error
    except (ElementTree.ParseError, DefusedXmlException, ValueError) as error:
        raise ValueError(f"{path}: not valid XML ({error}); unpack the data set again") from error
    size = [_read_number(tree.findtext(f"size/{side}")) for side in ("width", "height")]
    sound = all(side is not None and side >= 1 and side == int(side) for side in size)
    return VocAnnotation(
        size=(int(size[0] or 0), int(size[1] or 0)) if sound else None,
        objects=tuple(_read_object(path, entry) for entry in tree.iterfind("object")),
    )


def _read_object(path: Path, entry: Any) -> VocObject:
    name = (entry.findtext("name") or "").strip()
    corners = [_read_number(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    text = (entry.findtext("difficult") or "").strip()
    difficult = _read_number(text) if text else 0.0
    x1, y1, x2, y2 = (math.nan if corner is None else corner for corner in corners)
    mistakes = [] if name else ["it has no name"]
    mistakes += [] if x1 <= x2 and y1 <= y2 else [f"its bndbox is {corners}: expected four numbers, min before max"]
    mistakes += [] if difficult is not None else [f"its difficult is {text!r}: expected 0 or 1"]
    if mistakes:
        raise ValueError(
            f"{path}: an <object> {name or '?'} needs name, bndbox and difficult, but {'; '.join(mistakes)}"
        )
    return VocObject(name=name, difficult=bool(difficult), box=(x1, y1, x2, y2))


def _read_number(text: str | None) -> float | None:
    """Return the text as a finite number; None if it is not one."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
