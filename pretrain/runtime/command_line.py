"""What every command shares: words and key=value arguments, help, errors as sentences, exit codes."""

import contextlib
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from pretrain.runtime.stopping import EXIT_USER_ERROR, EXIT_YIELD, YieldRequested


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
    Anything else is a fault of ours and keeps its traceback. Output that nobody takes any more (`| head -1`, a full
    disk, a closed terminal) ends neither the command nor the chain behind it.
    """
    with _lasting_output():
        return _run(main, description, arguments)


def say_count(number: int, noun: str) -> str:
    """Return "1 stage" or "2 stages"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def escape(text: str) -> str:
    """Return a text with control characters and bytes that are no UTF-8 as escapes: a name can hide nothing."""
    shown = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", _escape_one, text)
    return shown.encode(errors="backslashreplace").decode()


class LastingOutput:
    """A text stream whose reader may go away: what cannot be written is dropped, and the first reason kept."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, with escapes where the terminal's encoding lacks a character."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush; what cannot be written is dropped."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def end(self) -> None:
        """Flush for the last time; a stream that fails then is pointed at nothing, or Python's own flush would fail."""
        self.flush()
        if self.lost is not None:
            self._drop_rest()

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        if error.errno in (errno.EPIPE, errno.EIO):  # nobody will ever read it again
            self._drop_rest()

    def _drop_rest(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
            self._stream.flush()


@contextlib.contextmanager
def _lasting_output() -> Iterator[None]:
    _fill_closed_handles()
    before = sys.stdout, sys.stderr
    streams = [LastingOutput(stream) if stream is not None else None for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in streams:
            if stream is not None:
                stream.end()
        sys.stdout, sys.stderr = before
        out = streams[0]
        if out is not None and out.lost is not None and out.lost.errno != errno.EPIPE and before[1] is not None:
            with contextlib.suppress(OSError):
                print(f"warning: the output above is not whole: {out.lost.strerror}", file=sys.stderr)


def _fill_closed_handles() -> None:
    """Point closed standard streams at nothing: else the next file that is opened becomes standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _run(main: Callable[[Sequence[str]], int | None], description: str | None, arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
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
        print(f"error: {escape(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR


def _escape_one(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _is_override(word: str) -> bool:
    key, sign, _ = word.partition("=")
    return bool(sign) and "/" not in key
