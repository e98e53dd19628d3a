"""`mochi` runs every command of tools/, starts at once, and answers a wrong word with the right ones."""

import importlib
import re
import subprocess
import sys

import pytest

from pretrain.runtime.machine import PROJECT_ROOT
from tools import mochi


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.mochi", *words], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", [*mochi.COMMANDS.values(), *mochi.DATA_COMMANDS.values()])
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
