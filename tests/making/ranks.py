"""Run a script as several processes of one gloo process group."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from pretrain.runtime.machine import PROJECT_ROOT


def run_ranks(script: str, folder: Path, *words: str, ranks: int = 2, timeout_s: float = 500) -> list[tuple[int, str]]:
    """Run `script` as `ranks` processes of one group; return the exit code and output of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = folder / "rank.py"
    path.write_text(script)
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    base = os.environ | group | {"PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(path), *words],
            cwd=folder,
            env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        texts = [process.communicate(timeout=timeout_s)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, text) for process, text in zip(processes, texts, strict=True)]
