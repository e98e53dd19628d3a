"""Commands take positional and key=value arguments, and report mistakes in one sentence and an exit code."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pretrain.runtime.command_line import UsageError, run_command, say_count, split_arguments
from pretrain.runtime.machine import PROJECT_ROOT
from pretrain.runtime.stopping import YieldRequested


def test_words_and_overrides_are_distinguished() -> None:
    words, overrides = split_arguments(["in.yaml", "a.b=1", "dir/x=1.pt"], ["CONFIG", "WEIGHTS"])
    assert (words, overrides) == (["in.yaml", "dir/x=1.pt"], ["a.b=1"])


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_wrong_number_of_words_says_which_are_expected(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match=r"expected CONFIG \[key=value …\]"):
        split_arguments(arguments, ["CONFIG"])


def test_optional_words_are_accepted() -> None:
    assert split_arguments(["a", "b"], ["A"], ["B"])[0] == ["a", "b"]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("no such key"), 2, "error: no such key"),
        (FileNotFoundError("nothing there"), 2, "error: nothing there"),
        (YieldRequested("step 7"), 75, "work saved: step 7"),
    ],
)
def test_known_errors_are_one_sentence_and_a_code(
    error: Exception, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_words: Sequence[str]) -> int:
        raise error

    assert run_command(main, "doc", []) == code
    printed = capsys.readouterr().err
    assert text in printed
    assert "Traceback" not in printed


def test_bugs_keep_their_traceback() -> None:
    def main(_words: Sequence[str]) -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_command(main, "doc", [])


def test_help_prints_the_docstring_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda _words: 9, "What it does.", ["x", "--help"]) == 0
    assert capsys.readouterr().out == "What it does.\n"


def test_word_that_is_not_utf8_is_reported_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda _words: 0, "doc", ["name=\udcff"]) == 2
    assert "not UTF-8: 'name=\\udcff'" in capsys.readouterr().err


def test_error_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_words: Sequence[str]) -> int:
        raise ValueError("no file a\x1b[2Jb\u202ec")

    assert run_command(main, "doc", []) == 2
    assert capsys.readouterr().err == "error: no file a\\x1b[2Jb\\u202ec\n"


SPEAKER = (
    "import sys, pathlib; from pretrain.runtime.command_line import run_command\n"
    "def main(words):\n"
    "    for number in range(5000): print('line', number, flush=True)\n"
    "    pathlib.Path(words[0]).write_text('went on'); return 0\n"
    "sys.exit(run_command(main, ''))"
)


@pytest.mark.parametrize("way", ["closed pipe", "full disk", "no stdout"])
def test_command_completes_when_its_output_cannot_be_written(tmp_path: Path, way: str) -> None:
    redirect = {"closed pipe": "| head -1", "full disk": "> /dev/full", "no stdout": ">&-"}[way]
    script = f'set -o pipefail; "$0" -c "$1" "$2" {redirect}'
    words = ["bash", "-c", script, sys.executable, SPEAKER, str(tmp_path / "end")]
    answer = subprocess.run(words, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "end").read_text() == "went on"
    assert ("No space left" in answer.stderr) == (way == "full disk")
    assert "Traceback" not in answer.stderr


def test_error_escapes_invisible_characters(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_words: Sequence[str]) -> int:
        raise ValueError("no\x1b[2K\x1b[1Ax\x00.pt, \u202egnp.a, " + os.fsdecode(b"\xff"))

    assert run_command(main, "", []) == 2
    assert capsys.readouterr().err == "error: no\\x1b[2K\\x1b[1Ax\\x00.pt, \\u202egnp.a, \\udcff\n"


def test_counts_use_the_plural() -> None:
    assert [say_count(number, "problem") for number in (0, 1, 2)] == ["0 problems", "1 problem", "2 problems"]
