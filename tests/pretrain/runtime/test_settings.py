"""Configs are strict: unknown and ill-typed settings are refused, and the message says what is allowed."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pretrain.config import PretrainConfig
from pretrain.runtime.settings import SettingsError, as_dict, from_dict, parse_overrides, read_settings


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    steps: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    name: str = "a"
    limit: int | None = None


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_overrides_win_over_the_file_and_the_file_over_its_base(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "name: base\ninner: {rate: 0.5, steps: [3]}\n")
    path = write(tmp_path, "own.yaml", "_base_: base.yaml\ninner: {rate: 1e-4}\n")
    settings = read_settings(Outer, path, ["limit=7"])
    assert settings == Outer(name="base", inner=Inner(rate=1e-4, steps=(3,)), limit=7)


def test_base_of_a_base_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "name: a\n")
    write(tmp_path, "b.yaml", "_base_: a.yaml\n")
    path = write(tmp_path, "c.yaml", "_base_: b.yaml\n")
    with pytest.raises(SettingsError, match="may not have a _base_ of its own"):
        read_settings(Outer, path)


def test_every_unknown_key_is_named_with_the_allowed_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "own.yaml", "nam: x\ninner: {rte: 1}\n")
    with pytest.raises(SettingsError) as caught:
        read_settings(Outer, path, ["inner.pace=3"])
    text = str(caught.value)
    assert "unknown setting nam; allowed are: inner, name, limit" in text
    assert "unknown setting inner.rte; allowed are: inner.rate, inner.steps" in text
    assert "the command line: unknown setting inner.pace" in text


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("inner.rate=fast", "inner.rate: expected a number, got 'fast'"),
        (
            "inner=3",
            "inner: expected a mapping of settings, got the single value 3; write inner.NAME for one of them",
        ),
        ("name", "expected key=value, got 'name'"),
        ("=3", "expected key=value, got '=3'"),
    ],
)
def test_malformed_override_is_an_error(override: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        read_settings(Outer, None, [override])


@pytest.mark.parametrize(("content", "text"), [("- 1\n", "expected a mapping"), ("a: [\n", "not valid YAML")])
def test_bad_file_is_named(tmp_path: Path, content: str, text: str) -> None:
    path = write(tmp_path, "bad.yaml", content)
    with pytest.raises(SettingsError, match=rf"bad\.yaml: {text}"):
        read_settings(Outer, path)


def test_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match="no such config file"):
        read_settings(Outer, "configs/nowhere.yaml")


def test_settings_round_trip_through_json() -> None:
    settings = read_settings(PretrainConfig, None, ["mixing.n=1024", "optimizer.milestones=[0.1,0.2]"])
    assert from_dict(PretrainConfig, as_dict(settings)) == settings


def test_stored_settings_with_an_unknown_key_are_refused() -> None:
    with pytest.raises(SettingsError, match="the stored settings: unknown setting colour"):
        from_dict(Outer, {"colour": 1})


def test_overrides_are_read_as_yaml() -> None:
    assert parse_overrides(["a.b=1e-3", "a.c=[1,2]", "d=text"]) == {"a": {"b": 1e-3, "c": [1, 2]}, "d": "text"}


@dataclass(frozen=True, kw_only=True)
class Named:
    parts: dict[str, Inner] = field(default_factory=dict)


def test_named_parts_are_dataclasses_and_as_strict(tmp_path: Path) -> None:
    path = write(tmp_path, "own.yaml", "parts: {a: {rate: 2}, b: {}}\n")
    settings = read_settings(Named, path, ["parts.b.steps=[4]"])
    assert settings.parts == {"a": Inner(rate=2.0), "b": Inner(steps=(4,))}
    assert from_dict(Named, as_dict(settings)) == settings
    with pytest.raises(SettingsError, match=r"unknown setting parts.a.pace; allowed are: parts.a.rate"):
        read_settings(Named, path, ["parts.a.pace=3"])


@dataclass(frozen=True, kw_only=True)
class Job:
    time_min: int = field(default=60, metadata={"least": 1})
    mem_gb: float = 0.0
    fast: bool = False
    version: str = ""
    hosts: str = field(default="", metadata={"join": ","})
    kind: str = field(default="a", metadata={"choices": ("a", "b")})


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "yes", "on", "1"])
def test_boolean_accepts_its_common_spellings(word: str) -> None:
    assert read_settings(Job, None, [f"fast={word}"]).fast
    assert not read_settings(Job, None, ["fast=true", "fast=Off"]).fast


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("time_min=12:00:00", r"expected a whole number \(minutes\), got '12:00:00'; as Slurm reads it, write 720"),
        ("time_min=1-00", "write 1440"),
        ("time_min=true", "expected a whole number"),
        ("time_min=0", r"time_min is 0; expected at least 1 \(minutes\)"),
        ("mem_gb=64G", r"expected a number \(GB\), got '64G'"),
        ("mem=64", r"unknown setting mem; .* Did you mean mem_gb \(GB\)\?"),
        ("fast=maybe", "expected true or false, got 'maybe'"),
        ("kind=c", "kind is 'c'; expected one of a, b"),
        ("version=[1]", "version: expected a text"),
        ("version=${oc.env:HOME}", "is an interpolation, which configs do not support"),
        ('version="a\\0b"', "contains a NUL character"),
        ("a..b=1", "expected names separated by dots, got an empty name"),
    ],
)
def test_wrong_value_error_names_type_and_unit(override: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        read_settings(Job, None, [override])


def test_text_stays_as_written_and_a_list_of_hosts_is_joined(tmp_path: Path) -> None:
    path = write(tmp_path, "job.yaml", "version: 1.10\nhosts: [a, b]\n")
    assert read_settings(Job, path) == Job(version="1.10", hosts="a,b")
    assert read_settings(Job, path, ["version=@x: y*"]).version == "@x: y*"
    assert read_settings(Job, path, ["version="]).version == ""


def test_all_mistakes_of_a_file_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "\nmem_gb: lots\n")
    path = write(tmp_path, "job.yaml", "_base_: base.yaml\ntime: 3\nfast: 7\nkind: c\n")
    with pytest.raises(SettingsError) as caught:
        read_settings(Job, path, ["hots=a"])
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines] == [
        "base.yaml, line 2", "job.yaml, line 2", "job.yaml, line 3", "job.yaml, line 4", "the command line",
    ]  # fmt: skip
    assert "Did you mean hosts?" in lines[-1]


def test_file_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "_base_: a.yaml\n")
    with pytest.raises(SettingsError, match="may not have a _base_ of its own"):
        read_settings(Outer, path)
