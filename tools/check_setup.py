"""The doctor: say what is installed, what is missing or at odds, and the exact remedy.

  python -m tools.check_setup [data=ROOT] [out=FOLDER] [slurm=true] [json=true]

data=ROOT   a Detectron2 data root (VOC2007/, VOC2012/, coco/) or an ImageNet folder (train/, val/) to look at
out=FOLDER  the folder that runs will be written to (its disk is checked); by default runs
slurm=true  Slurm and Submitit must work; otherwise their absence is only noted
json=true   print JSON for scripts

Exit code 0: everything needed is there (notes are allowed); 1: something must be mended first.

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
    from tools.doctor.examinations import Finding

EXIT_UNFIT = 1


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """What the doctor is asked to look at."""

    data: str = ""
    """A data root to look at; empty: none."""
    out: str = "runs"
    """Where runs are written: its disk is checked."""
    slurm: bool = False
    """Whether Slurm must work."""
    json: bool = False
    """Print JSON."""


def main(arguments: Sequence[str]) -> int:
    """Print the table of findings; return 1 when something must be mended."""
    _, overrides = split_arguments(arguments, [])
    settings = read_settings(DoctorSettings, None, overrides)
    from tools.doctor.examinations import examine_setup  # heavy: imports torch

    findings = examine_setup(data=settings.data, out=settings.out, slurm_needed=settings.slurm)
    if settings.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)
    return EXIT_UNFIT if any(finding.state == "problem" for finding in findings) else 0


def print_findings(findings: Sequence["Finding"]) -> None:
    """Print one line per finding, the remedy under each that has one."""
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
