"""Locate the log that explains a stage's outcome: the command's log or, if it never started, the Slurm job's."""

from pathlib import Path

from tools.chain.record.attempts import read_ledger
from tools.chain.record.state import stage_folder
from tools.chain.run.verdict import LOG

RUNNER_LOG = "log.runner.txt"


def find_logs(chain: Path, folder_name: str, state: str) -> list[Path]:
    """Return the log files to show, the command's first.

    If a stage neither runs nor has a verdict, a newer log of the runner or the Slurm job is added: it shows a closed
    gate, a failing set-up line or a failed launch.
    """
    folder = stage_folder(chain, folder_name)
    own = [path for path in (folder / LOG,) if path.is_file()]
    if own and state in ("done", "failed", "running"):
        return own
    about = [folder / RUNNER_LOG, *_list_job_logs(chain, folder)]
    others = sorted((path for path in about if path.is_file() and path.stat().st_size), key=_changed)
    return own + [path for path in others[-1:] if not own or _changed(path) > _changed(own[0])]


def _list_job_logs(chain: Path, folder: Path) -> list[Path]:
    """Return the logs of the stage's newest job; those of an array are in the folder of its first stage."""
    ids = [line["job_id"] for line in read_ledger(folder) if "job_id" in line]
    return list((chain / "stages").glob(f"*/slurm/{ids[-1]}_*_log.out")) if ids else []


def _changed(path: Path) -> float:
    return path.stat().st_mtime
