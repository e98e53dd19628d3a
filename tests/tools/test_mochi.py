"""`mochi` runs every command of tools/, starts at once, and answers a wrong word with the right ones."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from tools import mochi
from tools.chain.submit import freeze, open_chain
from tools.settings.completion import complete


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.mochi", *words], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", sorted({*mochi.COMMANDS.values(), *mochi.DATA_COMMANDS.values()}))
def test_command_exists_and_teaches_with_an_example(name: str) -> None:
    module = importlib.import_module(name)
    assert callable(module.main)
    example = r"python -m tools\.[\w.]+ .*\w/\w"
    assert re.search(example, module.__doc__ or ""), f"{name} --help shows no whole command with real paths"


def test_words_after_the_command_are_passed_on() -> None:
    assert mochi.find_module(["chain", "plan", "x.yaml"]) == ("tools.chain.__main__", ["plan", "x.yaml"])
    assert mochi.find_module(["data", "pack", "a", "b"]) == ("tools.pack_images", ["a", "b"])


@pytest.mark.parametrize("words", [["pretran"], ["data"], ["data", "pac"]])
def test_wrong_word_is_answered_with_the_known_ones(words: list[str]) -> None:
    answer = run(*words)
    assert answer.returncode == 2
    assert "pretrain, convert" in answer.stderr or "make|fetch|check|pack" in answer.stderr


def test_version_names_the_commit() -> None:
    assert "commit " in run("--version").stdout


def test_start_imports_nothing_heavy() -> None:
    probe = "import sys, tools.mochi; print(sorted({'torch', 'numpy', 'omegaconf', 'rich'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", probe], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_offers_the_commands(shell: str) -> None:
    script = mochi.write_completion(shell).replace("autoload -U +X bashcompinit && bashcompinit\n", "")
    probe = script + "\nCOMP_WORDS=(mochi pre) COMP_CWORD=1; _mochi; echo ${COMPREPLY[@]}"
    assert subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True).stdout.split() == [
        "pretrain"
    ]


def test_unknown_shell_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="bash, zsh, fish"):
        mochi.write_completion("tcsh")


def test_help_lists_every_command() -> None:
    text = run("--help").stdout
    assert [name for name in mochi.COMMANDS if f"  mochi {name} " not in text and f"  mochi {name}\n" not in text] == []
    tools = {path.stem for path in (PROJECT_ROOT / "tools").glob("*.py") if "def main(arguments" in path.read_text()}
    known = {name.rpartition(".")[2] for name in [*mochi.COMMANDS.values(), *mochi.DATA_COMMANDS.values()]}
    private = {name for name in tools if name.startswith(("benchmark_", "fault_", "verify_"))} | {
        "list_settings",
        "notify_chain",
    }
    assert tools - known - private == set(), "a tool that `mochi` does not offer"


def test_keys_are_a_word_of_each_command_with_a_config() -> None:
    assert mochi.find_module(["pretrain", "keys", "lr"]) == ("tools.settings.list_settings", ["pretrain", "lr"])
    assert mochi.find_module(["inspect", "a.pth"]) == ("tools.convert_checkpoint", ["inspect", "a.pth"])


def test_config_is_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = str(PROJECT_ROOT / "configs" / "pretrain" / "mochi_r50_in1k.yaml")
    for name in ("mochi_r50_in1k", "mochi_r50_in1k.yaml", "configs/pretrain/mochi_r50_in1k.yaml"):
        assert mochi.find_module(["pretrain", name, "run.out=x"]) == ("tools.pretrain_encoder", [expected, "run.out=x"])
    (tmp_path / "mochi_r50_in1k.yaml").write_text("mine")
    assert mochi.name_config("pretrain", ["mochi_r50_in1k.yaml"]) == ["mochi_r50_in1k.yaml"], "a file goes first"
    assert mochi.name_config("pretrain", ["nothing"]) == ["nothing"]


def test_modules_of_the_working_folder_shadow_nothing(tmp_path: Path) -> None:
    """`mochi` is a script: the working folder is not on its path; its children leave it out by -P."""
    for name in ("tools", "pretrain", "transfer", "yaml", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "chain.yaml").write_text('report: false\nstages: {one: {command: ["true"]}}\n')
    script = tmp_path / "bin" / "mochi"
    script.parent.mkdir()
    script.write_text("import sys\nfrom tools.mochi import main\nsys.exit(main())\n")
    words = [sys.executable, str(script), "chain", "plan", "chain.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    answer = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "0 done, 1 to run" in answer.stdout


def test_completion_offers_configs_settings_and_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chain.yaml").write_text('report: false\nstages: {one: {command: ["true"], seeds: [0, 1]}}\n')
    freeze(open_chain("chain.yaml"))
    assert complete(["pretrain", "mochi_r50_in1"]) == ["mochi_r50_in100", "mochi_r50_in1k"]
    assert complete(["pretrain", "x.yaml", "mixing.s"]) == ["mixing.s=", "mixing.s_prime=", "mixing.synco="]
    assert complete(["chain", "logs", "chain.yaml", "one"]) == ["one-seed0", "one-seed1"]
    assert complete(["chain", "submit", "chain.yaml", "dry"]) == ["dry_run="]
    assert complete(["chain", "plan", "digits_s"]) == ["digits_study"]
    assert complete(["chain", "logs", "nothing.yaml", "one"]) == []


def test_reader_that_has_enough_is_no_error() -> None:
    words = f"{sys.executable} -m tools.mochi chain keys | head -1"
    answer = subprocess.run(["bash", "-c", words], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert answer.stdout.count("\n") == 1
    assert answer.stderr == ""
