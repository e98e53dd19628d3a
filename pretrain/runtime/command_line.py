"""Shared by all commands: positional and key=value arguments, help, errors as sentences, exit codes."""

import contextlib
import errno
import logging
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from pretrain.runtime.stopping import EXIT_USER_ERROR, EXIT_YIELD, YieldRequested

HIDDEN = ("Cc", "Cf", "Cs")
"""Unicode's control, format and surrogate characters."""


class UsageError(ValueError):
    """The arguments of a command are wrong; the text says which were expected."""


def split_arguments(
    arguments: Sequence[str], names: Sequence[str], optional: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return (positional arguments, key=value options); an argument with "=" before any "/" is an option.

    Args:
        arguments: those after the command.
        names: the required positional arguments, for the error's text.
        optional: further positional arguments.

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

    ValueError and OSError (bad input, full disk) become a sentence and exit code 2; YieldRequested becomes 75. Any
    other exception is a bug and keeps its traceback. Output that can no longer be written (`| head -1`, a full disk, a
    closed terminal) stops neither the command nor its chain.
    """
    with _lasting_output():
        return _run(main, description, arguments)


def say_count(number: int, noun: str) -> str:
    """Return "1 stage" or "2 stages"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class LastingOutput:
    """A text stream whose reader may go away: what cannot be written is dropped, and the first error kept."""

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
        """Flush for the last time; a failing stream is redirected to /dev/null, or Python's own flush would fail."""
        self.flush()
        if self.lost is not None:
            self._drop_rest()

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        if error.errno in (errno.EPIPE, errno.EIO):  # the reader is gone
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
                print(f"warning: the output above is incomplete: {out.lost.strerror}", file=sys.stderr)


def _fill_closed_handles() -> None:
    """Open /dev/null for closed standard streams: else the next file that is opened becomes standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _run(main: Callable[[Sequence[str]], int | None], description: str | None, arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if bad := [word for word in words if _has_surrogates(word)]:
        print(f"error: this argument is not UTF-8: {bad[0]!a}; rename the file", file=sys.stderr)
        return EXIT_USER_ERROR
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        if "--help" in words or "-h" in words:
            print((description or "").strip(), flush=True)
            return 0
        return main(words) or 0
    except YieldRequested as request:
        print(f"stopped on request, work saved: {request}", file=sys.stderr)
        return EXIT_YIELD
    except BrokenPipeError:  # `| head` closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {show(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR


def show(text: str) -> str:
    """Return a text with control and invisible characters replaced by their escape sequences."""
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
