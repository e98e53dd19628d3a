"""Read a stage's metrics.json if it is a result of this project; a user's program may write another file so named."""

import logging
from pathlib import Path

from tools.chain.plan.resources import KINDS
from transfer.results.run_result import RESULT_NAME, RunResult, read_result

logger = logging.getLogger(__name__)


def read_sound_result(folder: Path, kind: str, *, strict: bool = False) -> RunResult | None:
    """Return the result in a stage's folder; None when there is none.

    Any other file is ignored; in a stage of the project's own kinds (not "command") it is damage, and logged.

    Raises:
        ValueError: with `strict`, if a stage of the project's own kinds has a damaged result.

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
    is_own = kind in KINDS and kind != "command"  # a damaged spec.json leaves the kind unknown
    if is_own and strict:
        raise ValueError(f"{reason}; delete the stage's DONE.json and submit again")
    if is_own:
        logger.warning("%s; the stage counts as one without a result: delete its DONE.json and submit again", reason)
    return None
