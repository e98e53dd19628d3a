"""One cluster for all Slurm tests of a run; its daemons are always ended, by their pid files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.trials.cluster import Cluster, find_missing


def _need(accounting: bool) -> None:
    if missing := find_missing(accounting):
        text = f"needs {', '.join(missing)}: run tools/setup/system_packages.sh as root on Debian or Ubuntu"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)


def _run(folder: Path, accounting: bool) -> Iterator[Cluster]:
    _need(accounting)
    cluster = Cluster(folder, accounting)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield from _run(tmp_path_factory.mktemp("cluster"), accounting=False)


@pytest.fixture(scope="module")
def accounting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield from _run(tmp_path_factory.mktemp("accounting"), accounting=True)
