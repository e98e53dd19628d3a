"""The documentation of settings is generated from their dataclasses, is complete, and explains every setting."""

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.setting_docs import list_settings, write_json_schema, write_settings
from tools.chain.plan.config import ChainConfig
from tools.settings.list_settings import SCHEMAS


@dataclass(frozen=True, kw_only=True)
class Part:
    time_min: int = field(default=60, metadata={"least": 1})
    """Longest time."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    kind: str = field(default="a", metadata={"choices": ("a", "b")})
    """One
    of two."""
    parts: dict[str, Part] = field(default_factory=dict)
    """By name."""
    rates: tuple[float, ...] = (0.1,)
    """Several."""
    limit: int | None = None
    """May be left out."""


def test_each_setting_is_listed_with_type_unit_default_and_meaning() -> None:
    assert write_settings(Whole).splitlines() == [
        "kind                 a or b; default a", "    One of two.",
        "parts.NAME.time_min  whole number (minutes); default 60", "    Longest time.",
        "rates                list of number; default [0.1]", "    Several.",
        "limit                whole number or nothing; default none", "    May be left out.",
    ]  # fmt: skip


def test_word_filters_settings_and_an_unknown_one_is_an_error() -> None:
    assert write_settings(Whole, "time").startswith("parts.NAME.time_min")
    with pytest.raises(ValueError, match="no setting has 'colour' in its name or its meaning"):
        write_settings(Whole, "colour")


def test_schema_holds_types_bounds_and_meanings() -> None:
    schema = json.loads(write_json_schema(Whole, "title"))
    part = schema["properties"]["parts"]["additionalProperties"]["properties"]["time_min"]
    assert part == {"type": "integer", "minimum": 1, "description": "Longest time. (minutes)"}
    assert schema["properties"]["kind"]["enum"] == ["a", "b"]
    assert schema["additionalProperties"] is False
    labels = json.loads(write_json_schema(ChainConfig, "chain"))["properties"]["resources"]["additionalProperties"]
    assert labels["properties"]["gpus"]["minimum"] == 0


@pytest.mark.parametrize("command", ["pretrain", "chain"])
def test_every_setting_of_the_project_has_a_meaning(command: str) -> None:
    module, name = SCHEMAS[command]
    settings = list(list_settings(getattr(importlib.import_module(module), name)))
    assert len(settings) > 40
    assert [entry.key for entry in settings if not entry.meaning] == []


@pytest.mark.parametrize(
    "words", [["chain", "keys", "time"], ["pretrain", "keys", "lr"], ["chain", "keys", "schema=yes"]]
)
def test_keys_are_printed_from_the_command_line(words: list[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "tools.mochi", *words], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    expected = {"time": "resources.LABEL.time_min  whole number (minutes); default 60", "lr": "optimizer.lr"}
    assert expected.get(words[-1], '"additionalProperties": false') in answer.stdout
