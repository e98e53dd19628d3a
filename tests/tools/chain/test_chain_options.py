"""The command line of chains from the outside: switches are read as written, and nothing that was said is forgotten."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.runtime.command_line import UsageError
from pretrain.runtime.machine import PROJECT_ROOT
from tools.chain.memory import merge_words
from tools.chain.plan.options import split_options

CHAIN = """
runs: {runs}
report: false
budgets: {{min_free_gb: 0.001}}
data: {{root: {data}}}
stages:
  say: {{command: ["{{python}}", -c, "open('{{out}}/x', 'w').write('{{data}}')"], outputs: [x]}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
    path.write_text(CHAIN.format(runs=tmp_path / "runs", data=tmp_path / "data"))
    return path


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.mochi", "chain", *map(str, words)]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("word", ["dry_run=True", "dry_run=yes", "dry_run=1", "dry_run=TRUE"])
def test_dry_run_submits_nothing_however_it_is_written(path: Path, word: str) -> None:
    answer = run("submit", path, word)
    assert answer.returncode == 0
    assert "1 to run" in answer.stdout
    assert not (path.parent / "runs").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dry_run=maybe"], "dry_run: expected true or false, got 'maybe'"),
        (["dry-run=true"], "did you mean dry_run="),
        (["--dry-run=true"], "did you mean dry_run="),
        (["dryrun=true"], "did you mean dry_run="),
        (["dry_run"], "submit takes one chain; got 'dry_run'"),
        (["watch=true"], "submit does not take watch=true"),
        (["backend=slrm"], "backend is 'slrm'; expected one of local, slurm"),
    ],
)
def test_wrong_option_starts_nothing(path: Path, words: list[str], sentence: str) -> None:
    answer = run("submit", path, *words)
    assert answer.returncode == 2
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (path.parent / "runs").exists()


def test_options_are_told_from_settings() -> None:
    options, settings = split_options("submit", ["retry=[a, b]", "seeds=[1]", "changed=true"])
    assert (options.retry, options.changed, settings) == ("a,b", True, ["seeds=[1]"])
    with pytest.raises(UsageError, match="report does not take follow=true; it takes no options"):
        split_options("report", ["follow=true"])


def test_later_words_replace_earlier_ones_and_what_lies_below_them() -> None:
    before = ["data.root=/a", "resources.default.gpus=1", "resources.voc.gpus=2"]
    assert merge_words(before, ["data.root=/b", "resources.default={cpus: 2}"]) == (
        "resources.voc.gpus=2", "data.root=/b", "resources.default={cpus: 2}",
    )  # fmt: skip


@pytest.mark.slow
def test_later_commands_use_what_the_submit_was_told(path: Path) -> None:
    """Submit with other data and another place; every later command goes on with these, by file or by folder."""
    elsewhere = path.parent / "elsewhere"
    assert run("submit", path, f"runs={elsewhere}", f"data.root={path.parent}/other").returncode == 0
    folder = elsewhere / "chain"
    (stage,) = (folder / "stages").iterdir()
    assert (stage / "x").read_text() == f"{path.parent}/other"
    for chain in (path, folder):
        plan = run("plan", chain)
        assert "1 done, 0 to run" in plan.stdout, plan.stderr
        rows = json.loads(run("status", chain, "json=true").stdout)
        assert [(row["stage"], row["state"]) for row in rows] == [("say", "done")]
        assert run("logs", chain, "say").returncode == 0
        assert run("resume", chain).returncode == 0
    assert [entry.name for entry in (folder / "stages").iterdir()] == [stage.name], "nothing ran a second time"


@pytest.mark.slow
def test_submit_of_other_work_says_what_differs_and_asks(path: Path) -> None:
    assert run("submit", path).returncode == 0
    answer = run("submit", path, f"data.root={path.parent}/other")
    assert answer.returncode == 2
    assert "this would start other work than the last submit did:\n  say (done): " in answer.stderr
    assert "/other" in answer.stderr
    assert "changed=true" in answer.stderr
    assert run("submit", path, f"data.root={path.parent}/other", "changed=yes").returncode == 0
    assert len(list((path.parent / "runs" / "chain" / "stages").iterdir())) == 2
    assert run("submit", path).returncode == 0, "the other data are remembered: nothing differs"
