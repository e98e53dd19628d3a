"""Run the doctor before anything is started, so that an unsuitable set-up is reported in seconds, not after hours."""

import os
import subprocess
import sys

from pretrain.runtime.machine import PROJECT_ROOT
from tools.chain.record.state import find_states
from tools.chain.submit import Chain


def run_doctor(chain: Chain) -> None:
    """Run tools.check_setup unless only stages of kind `command` remain.

    Raises:
        ValueError: the doctor found a problem; its table is printed.

    """
    states = find_states(chain.folder, chain.stages)
    if all(states[stage.name] == "done" or stage.kind == "command" for stage in chain.stages):
        return
    words = [f"out={chain.folder}", f"slurm={'true' if chain.config.backend == 'slurm' else 'false'}"]
    if chain.config.data.root:
        words.append(f"data={chain.config.data.root}")
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "tools.check_setup", *words],
        env={**os.environ, "PYTHONPATH": f"{PROJECT_ROOT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")},
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        print(answer.stdout)
        raise ValueError(
            "the set-up is not fit for this chain; fix every problem in the table above, then submit again"
            + (f"\n{answer.stderr.strip()}" if answer.returncode != 1 else "")
        )
    print("doctor: no problems found (python -m tools.check_setup shows the table)")
