"""Run a command with a real Slurm on this machine's loopback device, then wait until the queue is empty.

  python -m tools.trials python -m tools.chain submit configs/chains/digits.yaml backend=slurm resources.default.gpus=0

Two nodes of four CPUs; needs root and the packages slurm-wlm and munge (tools/setup/system_packages.sh installs them).
Ctrl-C ends the jobs and the daemons.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.command_line import UsageError
from tools.trials.cluster import Cluster, find_missing


def main(arguments: Sequence[str]) -> int:
    """Start the cluster, run the command, wait for its jobs, stop the cluster; return the command's exit code."""
    if not arguments or arguments[0] in ("--help", "-h"):
        print((__doc__ or "").strip())
        return 0
    if missing := find_missing():
        raise UsageError(f"needs {', '.join(missing)}; run tools/setup/system_packages.sh as root on Debian or Ubuntu")
    with tempfile.TemporaryDirectory(prefix="loopback-slurm-") as name:
        cluster = Cluster(Path(name))
        try:
            cluster.start()
            code = subprocess.run(arguments, check=False).returncode
            while cluster.ask("squeue", "--noheader", check=False).strip():
                time.sleep(1)
        finally:
            cluster.stop()
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
