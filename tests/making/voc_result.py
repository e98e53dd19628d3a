"""The stored result of one VOC run, as a model card shows it."""

import json
from pathlib import Path


def write_voc_result(folder: Path) -> Path:
    """Write the result of backbone mochi, seed 3, AP 57.5, without AP75; return the file."""
    result = {
        "backbone": "mochi",
        "protocol": "voc-c4-24k@moco",
        "seed": 3,
        "metrics": {"AP": 57.5, "AP75": None},
        "weights_sha256": "0",
        "commit": "c",
        "machine": {},
    }
    path = folder / "metrics.json"
    path.write_text(json.dumps(result))
    return path
