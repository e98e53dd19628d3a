"""User-defined data sets and protocols, in a config file that lists only the differences.

  PROTOCOL: mine-boxes              # a new name: results are never compared with published rows
  BASED_ON: coco-fpn-1x@moco        # the named protocol that provides all other keys
  MODEL: {MASK_ON: False}           # boxes only
  data_sets:
    mine:                           # registered as mine_train and mine_test
      format: coco
      train: {annotations: annotations/train.json, images: images}
      test: {annotations: annotations/test.json, images: images}
    other:
      format: voc                   # FOLDER/Annotations, FOLDER/ImageSets/Main/<list>.txt, FOLDER/JPEGImages
      folder: scans
      train: train                  # name of the list
      test: val
      classes: [cell, scratch]      # optional; default: those of the training annotations, sorted

Paths are relative to the data root (data=ROOT), or to the config's folder if none is given. The number of classes is
read from the data. VOC-format sets are evaluated with VOC 2012's AP (all points).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transfer.detection.protocol_files import CONFIG_FOLDER, PROTOCOL_FILES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RESERVED = ("voc", "coco", "knn", "linear")
"""Prefixes of the named protocols, by which published results and noise are found."""
PARTS = ("train", "test")
FORMATS = {"coco": ("format", *PARTS), "voc": ("format", *PARTS, "folder", "classes")}
COCO_FILES = ("annotations", "images")
Read = Callable[[Path], dict[str, Any]]


def expand_own(values: Mapping[str, Any], path: Path, read: Read) -> dict[str, Any]:
    """Return the config keys of the file `path`, merged over those of BASED_ON, with `data_sets` expanded.

    Args:
        values: content of the file.
        path: of the file, for error texts and as the root of relative paths.
        read: returns the content of another config file.

    Raises:
        ValueError: one line per mistake in BASED_ON, PROTOCOL and data_sets.

    """
    values = dict(values)
    sets, base = values.pop("data_sets", {}), values.get("BASED_ON", "")
    if not sets and not base:
        return values
    mistakes = [*_check_names(values.get("PROTOCOL", ""), base), *_check_sets(sets)]
    if sets and not mistakes:
        given = values.get("DATASETS", {})
        mistakes = [
            f"data_sets: no set has a {part} part; add one, or set DATASETS.{part.upper()}"
            for part in PARTS
            if not any(part in entry for entry in sets.values()) and part.upper() not in given
        ]
    if mistakes:
        raise ValueError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    defaults = read(CONFIG_FOLDER / PROTOCOL_FILES[base]) if base else {}
    if not sets:
        return _merge(defaults, values)
    keys = _list_sets(sets)
    keys["COCO_FORMAT"] += values.get("DATASETS", {}).get("COCO_FORMAT", [])
    values = _merge(values, {"DATASETS": {"COCO_FORMAT": keys.pop("COCO_FORMAT")}})
    from_data = {"MODEL": {"ROI_HEADS": {"NUM_CLASSES": 0}}, "DATASETS": keys | {"ROOT": str(path.parent.absolute())}}
    return _merge(_merge(defaults, from_data), values)


def is_own(cfg: Any) -> bool:
    """Return whether the config's protocol is user-defined."""
    return bool(cfg.BASED_ON)


def base_of(cfg: Any) -> str:
    """Return the named protocol that the config follows or is based on."""
    return str(cfg.BASED_ON or cfg.PROTOCOL)


def _check_names(protocol: Any, base: Any) -> Iterator[str]:
    if not base:
        return
    if base not in PROTOCOL_FILES:
        yield f"BASED_ON: unknown protocol {base!r}; expected one of {', '.join(PROTOCOL_FILES)}"
    if not isinstance(protocol, str) or not NAME.fullmatch(protocol):
        yield f"PROTOCOL: expected a name of letters, digits, '.', '_' and '-'; got {protocol!r}"
    elif protocol.lower().startswith(RESERVED):
        yield (
            f"PROTOCOL: {protocol!r} starts with a reserved prefix ({', '.join(RESERVED)}), which compares it with "
            f"published results; use another name, such as mine-{protocol}"
        )


def _check_sets(sets: Any) -> Iterator[str]:
    if not isinstance(sets, Mapping):
        yield f"data_sets: expected a mapping of names to sets; got {sets!r}"
        return
    for name, entry in sets.items():
        where = f"data_sets.{name}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield f"{where}: expected a name of letters, digits, '.', '_' and '-'"
        kind = entry.get("format") if isinstance(entry, Mapping) else None
        if kind not in FORMATS:
            yield f"{where}.format: expected {' or '.join(FORMATS)}; got {kind!r}"
            continue
        if unknown := sorted(map(str, entry.keys() - {*FORMATS[kind]})):
            yield f"{where}: unknown {', '.join(unknown)}; allowed are {', '.join(FORMATS[kind])}"
        if not entry.keys() & {*PARTS}:
            yield f"{where}: has neither train nor test"
        yield from _check_coco(where, entry) if kind == "coco" else _check_voc(where, entry)


def _check_coco(where: str, entry: Mapping[str, Any]) -> Iterator[str]:
    for part in PARTS:
        files = entry.get(part, dict.fromkeys(COCO_FILES, "-"))
        if not isinstance(files, Mapping) or files.keys() != {*COCO_FILES} or not all(map(_is_text, files.values())):
            yield f"{where}.{part}: expected {{annotations: FILE, images: FOLDER}}; got {files!r}"


def _check_voc(where: str, entry: Mapping[str, Any]) -> Iterator[str]:
    for key in ("folder", *PARTS):
        if not _is_text(entry.get(key, "-" if key in PARTS else None)):
            yield f"{where}.{key}: expected {'the name of a list' if key in PARTS else 'a folder'}"
    classes = entry.get("classes", ["-"])
    if not isinstance(classes, list) or not classes or not all(map(_is_text, classes)):
        yield f"{where}.classes: expected a list of class names; got {classes!r}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _list_sets(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys of DATASETS for the sets: TRAIN and TEST, and the files of each set."""
    keys: dict[str, list[Any]] = {"TRAIN": [], "TEST": [], "COCO_FORMAT": [], "VOC_FORMAT": []}
    for name, entry in sets.items():
        for part in PARTS:
            if part not in entry:
                continue
            keys[part.upper()].append(f"{name}_{part}")
            if entry["format"] == "coco":
                keys["COCO_FORMAT"].append([f"{name}_{part}", *(entry[part][file] for file in COCO_FILES)])
            else:
                classes = list(entry.get("classes", []))
                keys["VOC_FORMAT"].append([f"{name}_{part}", entry["folder"], entry[part], classes])
    return {key: value for key, value in keys.items() if value or key == "COCO_FORMAT"}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings merged recursively; `above` takes precedence."""
    joined = dict(below)
    for key, value in above.items():
        old = joined.get(key)
        joined[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return joined
