"""Commands take words and key=value, and answer mistakes with one sentence and an exit code."""

from collections.abc import Sequence

import pytest

from pretrain.runtime.command_line import UsageError, run_command, split_arguments
from pretrain.runtime.stopping import YieldRequested


def test_words_and_overrides_are_told_apart() -> None:
    words, overrides = split_arguments(["in.yaml", "a.b=1", "dir/x=1.pt"], ["CONFIG", "WEIGHTS"])
    assert (words, overrides) == (["in.yaml", "dir/x=1.pt"], ["a.b=1"])


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_wrong_number_of_words_says_which_are_expected(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match=r"expected CONFIG \[key=value …\]"):
        split_arguments(arguments, ["CONFIG"])


def test_optional_words_may_come() -> None:
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


def test_own_faults_keep_their_traceback() -> None:
    def main(_words: Sequence[str]) -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_command(main, "doc", [])


def test_help_prints_the_docstring_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda _words: 9, "What it does.", ["x", "--help"]) == 0
    assert capsys.readouterr().out == "What it does.\n"


def test_word_that_is_not_utf8_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda _words: 0, "doc", ["name=\udcff"]) == 2
    assert "not UTF-8: 'name=\\udcff'" in capsys.readouterr().err


def test_error_shows_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_words: Sequence[str]) -> int:
        raise ValueError("no file a\x1b[2Jb\u202ec")

    assert run_command(main, "doc", []) == 2
    assert capsys.readouterr().err == "error: no file a\\x1b[2Jb\\u202ec\n"
