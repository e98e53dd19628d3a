"""Read a stage's metrics.json where it is a result of this project: a user's own program may call any file so."""

import logging
from pathlib import Path

from transfer.results.run_result import RESULT_NAME, RunResult, read_result

logger = logging.getLogger(__name__)


def read_sound_result(folder: Path, kind: str, *, strict: bool = False) -> RunResult | None:
    """Return the result in a stage's folder; None when there is none.

    A file that is no result is left out; in a stage of ours (not of kind "command") that is damage, named in the log.

    Raises:
        ValueError: with `strict`, where a stage of ours has a damaged result.

    """
    if not (folder / RESULT_NAME).is_file():
        return None
    try:
        result = read_result(folder)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error)
    else:
        sound = all(isinstance(text, str) for text in (result.backbone, result.protocol))
        sound = sound and isinstance(result.seed, int) and isinstance(result.machine, dict)
        if sound and all(value is None or isinstance(value, int | float) for value in result.metrics.values()):
            return result
        reason = f"{folder / RESULT_NAME}: backbone, protocol, seed, machine or metrics of another type"
    if kind != "command" and strict:
        raise ValueError(f"{reason}; delete the stage's DONE.json and submit again")
    if kind != "command":
        logger.warning("%s; the stage counts as one without a result: delete its DONE.json and submit again", reason)
    return None
