"""Hosts on which attempts keep dying without a step: they are left out at a submit, and at a requeue in place."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import write_text
from tools.chain.record.attempts import is_alive, read_attempts
from tools.chain.slurm import squeue

BAD_HOSTS = "slurm/bad_hosts"
"""File in a stage's folder: what its job asks Slurm to leave out from its next restart on."""
BAD_STARTS = 2
"""Starts on one host that died without a step, from which on it counts as bad."""


def find_bad_hosts(
    folders: Iterable[Path], most: int, partition: str, own: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the bad hosts, the worst first; never more than half of a partition, or its jobs would wait for ever.

    Args:
        folders: of the stages whose attempts count.
        most: how many to leave out at most.
        partition: as the jobs name it; "" for all nodes.
        own: "job_id" and "restart" of a job that asks about itself.

    Raises:
        QueueUnknownError: Slurm does not say which nodes there are.

    """
    counts = Counter(node for folder in folders for node in _list_bad_starts(folder, own))
    bad = [node for node, count in counts.most_common() if count >= BAD_STARTS][:most]
    return bad[: len(list_nodes(partition)) // 2] if bad else []


def must_leave_host(folder: Path, spec: Mapping[str, Any], own: Mapping[str, Any], node: str) -> bool:
    """Return whether a stage's job is on a host that is bad for it; note all such hosts for the batch script."""
    asked = spec["resources"]
    try:
        bad = find_bad_hosts([folder], spec["slurm"]["max_bad_hosts"], asked["partition"], own)
    except squeue.QueueUnknownError:
        return False
    if bad:
        write_text(folder / BAD_HOSTS, ",".join(name for name in (asked["exclude"], *bad) if name))
    return node in bad


def list_nodes(partition: str) -> set[str]:
    """Return the names of a partition's nodes; of all for ""."""
    words = ["sinfo", "--noheader", "--Node", "--format=%N", *([f"--partition={partition}"] if partition else [])]
    return set(squeue.run_slurm(words).split())


def _list_bad_starts(folder: Path, own: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the node of every attempt that died, or was lost with its node, and got no step further."""
    entries, last = [entry for entry in read_attempts(folder) if not entry.get("damaged")], dict[str, Any]()
    for entry, following in zip_longest(entries, entries[1:], fillvalue=last):
        died = entry.get("outcome") in ("killed", "superseded") or not (entry.get("outcome") or is_alive(entry, own))
        to_step = entry.get("to_step", following.get("from_step", entry["from_step"]))
        if died and to_step <= entry["from_step"] and entry.get("node"):
            yield entry["node"]
