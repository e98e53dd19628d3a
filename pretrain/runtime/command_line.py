"""What every command shares: words and key=value arguments, help, errors as sentences, exit codes."""

import logging
import sys
import unicodedata
from collections.abc import Callable, Sequence

from pretrain.runtime.stopping import EXIT_USER_ERROR, EXIT_YIELD, YieldRequested

HIDDEN = ("Cc", "Cf", "Cs")
"""Unicode's control, format and surrogate characters."""


class UsageError(ValueError):
    """The words of a command are off; the text says which were expected."""


def split_arguments(
    arguments: Sequence[str], names: Sequence[str], optional: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return (positional words, key=value overrides); a word with "=" before any "/" is an override.

    Args:
        arguments: the words after the command.
        names: the positional words that must come, for the error's text.
        optional: further positional words that may come.

    """
    words = [word for word in arguments if not _is_override(word)]
    overrides = [word for word in arguments if _is_override(word)]
    if not len(names) <= len(words) <= len(names) + len(optional):
        expected = " ".join([*names, *(f"[{name}]" for name in optional), "[key=value …]"])
        raise UsageError(f"expected {expected}; got {' '.join(words) or 'nothing'}. Add --help for an example.")
    return words, overrides


def run_command(
    main: Callable[[Sequence[str]], int | None], description: str | None, arguments: Sequence[str] | None = None
) -> int:
    """Run `main(words)` and return its exit code; --help prints `description`; known errors print one sentence.

    ValueError and OSError (bad input, full disk) become a sentence and exit code 2; YieldRequested becomes 75.
    Anything else is a fault of ours and keeps its traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if bad := [word for word in words if _has_surrogates(word)]:
        print(f"error: this word is not UTF-8: {bad[0]!a}; rename the file, or quote the word", file=sys.stderr)
        return EXIT_USER_ERROR
    if "--help" in words or "-h" in words:
        print((description or "").strip())
        return 0
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        return main(words) or 0
    except YieldRequested as request:
        print(f"stopped on request, work saved: {request}", file=sys.stderr)
        return EXIT_YIELD
    except (ValueError, OSError) as error:
        print(f"error: {show(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR


def show(text: str) -> str:
    """Return a text with every character that a terminal would obey, or not show, as its escape sequence."""
    return "".join(
        _escape(sign) if unicodedata.category(sign) in HIDDEN and sign not in "\n\t" else sign for sign in text
    )


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape").decode()


def _has_surrogates(word: str) -> bool:
    return any(unicodedata.category(sign) == "Cs" for sign in word)


def _is_override(word: str) -> bool:
    key, sign, _ = word.partition("=")
    return bool(sign) and "/" not in key
