"""Check the set-up: list what is installed, what is missing or incompatible, and how to fix it.

  python -m tools.check_setup [data=ROOT] [out=FOLDER] [slurm=true] [json=true]

data=ROOT   a Detectron2 data root (VOC2007/, VOC2012/, coco/) or an ImageNet folder (train/, val/) to check
out=FOLDER  the folder for runs, whose disk is checked; default: runs
slurm=true  report missing Slurm or Submitit as a problem instead of a note
json=true   print JSON for scripts

Exit code 0: no problem found (notes are allowed); 1: at least one problem.

Example: python -m tools.check_setup data=runs/digits/data
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pretrain.runtime.command_line import run_command, split_arguments
from pretrain.runtime.settings import read_settings

if TYPE_CHECKING:
    from tools.doctor.checks import Finding

EXIT_PROBLEM = 1


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """What to check."""

    data: str = ""
    """A data root to check; empty: none."""
    out: str = "runs"
    """The folder for runs, whose disk is checked."""
    slurm: bool = False
    """Whether Slurm is required."""
    json: bool = False
    """Print the findings as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Print the findings; return 1 if one of them is a problem, else 0."""
    _, overrides = split_arguments(arguments, [])
    settings = read_settings(DoctorSettings, None, overrides)
    from tools.doctor.checks import check_setup  # heavy: imports torch

    findings = check_setup(data=settings.data, out=settings.out, slurm_needed=settings.slurm)
    if settings.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)
    return EXIT_PROBLEM if any(finding.state == "problem" for finding in findings) else 0


def print_findings(findings: Sequence["Finding"]) -> None:
    """Print one table row per finding."""
    from rich.console import Console  # late, so that --help is quick
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("", "what", "found", "remedy"):
        table.add_column(title, overflow="fold")
    signs = {"fine": "[green]fine[/]", "note": "[yellow]note[/]", "problem": "[bold red]problem[/]"}
    for finding in findings:
        table.add_row(signs[finding.state], finding.what, finding.found, finding.remedy)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
