"""What can be wrong with a file of a data set: one problem, one remedy; images decoded, copies found by their bytes."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageOps

from pretrain.input.decoding import MAX_MEGAPIXELS, open_image
from pretrain.runtime.storage import digest_file

SAMPLE = 20
"""Images decoded per set without deep=true: evenly spread."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, and what to do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. Remedy: {self.remedy}"


def choose_sample(names: list[Any], deep: bool) -> list[Any]:
    """Return the names whose images are decoded: all of them when `deep`."""
    return names if deep else names[:: max(1, len(names) // SAMPLE)]


def check_image(path: Path, size: tuple[Any, Any]) -> list[Problem]:
    """Return what is wrong with an image: it cannot be decoded, or is not (width, height) `size` in pixels.

    It is turned as its EXIF data say, as Detectron2 turns it before it compares the sizes.
    """
    if odd := _find_odd(path):
        return [odd]
    try:
        with open_image(path.read_bytes()) as image:
            found = image.size
            if sorted(found) == sorted(size):  # else it need not be decoded, however large it says that it is
                found = ImageOps.exif_transpose(image).size
    except (OSError, ValueError, SyntaxError) as error:
        return [Problem(where=str(path), what=f"cannot be decoded ({error})", remedy="fetch the image again")]
    if found == tuple(size):
        return []
    turned = " (turned as its EXIF data say)" if found == tuple(size)[::-1] else ""
    what = f"is {found[0]} x {found[1]} pixels{turned}, the annotation says {size[0]} x {size[1]}"
    remedy = (
        "annotate the image as it is shown, or remove its EXIF orientation"
        if turned
        else ("fetch the image again: one of the two is another version's")
    )
    return [Problem(where=str(path), what=what, remedy=remedy)]


def find_refusal(read: Callable[[], object], where: Path) -> list[Problem]:
    """Return what a run's own reader says against a file: a problem per line of its error; [] when it reads it."""
    try:
        read()
    except ValueError as error:
        remedy = "correct the file; a run would refuse it"
        return [
            Problem(where=str(where), what=line.removeprefix(f"{where}: "), remedy=remedy)
            for line in str(error).splitlines()
        ]
    return []


def _find_odd(path: Path) -> Problem | None:
    """Return what an image's header tells: more pixels than can be meant, or more than 8 bits a value."""
    try:
        with open_image(path.read_bytes()) as image:
            (width, height), mode = image.size, image.mode
    except (OSError, ValueError, SyntaxError):
        return None  # told as not decodable
    if width * height > MAX_MEGAPIXELS * 1e6:
        what = f"declares {width} x {height} pixels, over {MAX_MEGAPIXELS:g} megapixels"
        return Problem(where=str(path), what=what, remedy="fetch the image again, or shrink it")
    if mode.startswith(("I", "F")):
        what = f"has values of {mode}, which Detectron2 cuts to 8 bits: the image turns white or black"
        return Problem(where=str(path), what=what, remedy="convert it to 8 bits a channel")
    return None


def find_leak(where: Path, sets: tuple[str, str], shared: Iterable[str]) -> list[Problem]:
    """Return the problem that names in `shared` are in a set to train on and in one to test on; [] when none is."""
    names = sorted(shared)
    if not names:
        return []
    what = f"{len(names)} images are in {sets[0]} and {sets[1]}, e.g. {names[0]}: the test is leaked"
    return [Problem(where=str(where), what=what, remedy="restore the published image sets")]


def find_copies(first: Iterable[Path], second: Iterable[Path]) -> list[str]:
    """Return "name" or "name = other name" of the files in `first` whose bytes some file in `second` has too.

    Reads only files whose sizes agree.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in filter(Path.is_file, second):
        by_size[path.stat().st_size].append(path)
    digests: dict[Path, str] = {}
    copies = []
    for path in filter(Path.is_file, first):
        for other in by_size.get(path.stat().st_size, []):
            for file in (path, other):
                if file not in digests:
                    digests[file] = digest_file(file)
            if digests[path] == digests[other]:
                copies.append(path.name if path.name == other.name else f"{path.name} = {other.name}")
                break
    return copies
