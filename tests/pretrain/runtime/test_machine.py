"""A result records the machine, versions and commit that produced it."""

import re

import pytest

from pretrain.runtime import machine


def test_machine_names_its_processor_and_versions() -> None:
    described = machine.describe_machine()
    assert described["cpu"]
    assert described["cores"] >= 1
    assert re.match(r"\d+\.\d+", described["torch"])


def test_commit_given_by_a_chain_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCHI_COMMIT", "abc")
    machine.read_commit.cache_clear()
    assert machine.read_commit() == "abc"
    machine.read_commit.cache_clear()
