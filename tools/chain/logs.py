"""Find the log that tells what became of a stage: its command's, or that of a job which never got so far."""

from pathlib import Path

from tools.chain.record.attempts import read_ledger
from tools.chain.record.state import stage_folder
from tools.chain.run.verdict import LOG

RUNNER_LOG = "log.runner.txt"


def find_logs(chain: Path, folder_name: str, state: str) -> list[Path]:
    """Return the files to read, the command's first.

    While a stage neither runs nor has a verdict, a newer log of the runner or of the Slurm job belongs to it: a closed
    gate, a failing set-up line, a node that could not start the job.
    """
    folder = stage_folder(chain, folder_name)
    own = [path for path in (folder / LOG,) if path.is_file()]
    if own and state in ("done", "failed", "running"):
        return own
    about = [folder / RUNNER_LOG, *_list_job_logs(chain, folder)]
    others = sorted((path for path in about if path.is_file() and path.stat().st_size), key=_changed)
    return own + [path for path in others[-1:] if not own or _changed(path) > _changed(own[0])]


def _list_job_logs(chain: Path, folder: Path) -> list[Path]:
    """Return the logs of the stage's newest job; those of an array lie with its first stage."""
    ids = [line["job_id"] for line in read_ledger(folder) if "job_id" in line]
    return list((chain / "stages").glob(f"*/slurm/{ids[-1]}_*_log.out")) if ids else []


def _changed(path: Path) -> float:
    return path.stat().st_mtime
