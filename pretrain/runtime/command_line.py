"""Shared code of all commands: positional and key=value arguments, help, error messages, exit codes."""

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
    """The arguments of a command are wrong; the message says which were expected."""


def split_arguments(
    arguments: Sequence[str], names: Sequence[str], optional: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return (positional arguments, key=value options); an argument with "=" before any "/" is an option.

    Args:
        arguments: the arguments of the command.
        names: names of the required positional arguments, for the error message.
        optional: names of the optional positional arguments.

    Raises:
        UsageError: too few or too many positional arguments.

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
    """Run `main(arguments)` and return its exit code; --help prints `description`; known errors print one sentence.

    ValueError and OSError (bad input, full disk) become a sentence and exit code 2; YieldRequested becomes 75.
    Any other exception is a bug and keeps its traceback. Output that cannot be written (`| head -1`, a full disk, a
    closed terminal) ends neither the command nor the chain that it started.
    """
    with _lasting_output():
        return _run(main, description, arguments)


def say_count(number: int, noun: str) -> str:
    """Return "1 stage" or "2 stages"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class LastingOutput:
    """A text stream that survives a closed reader: unwritable output is dropped, and the first error is kept."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`, escaping characters that the terminal's encoding lacks."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush; unwritable output is dropped."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def end(self) -> None:
        """Flush for the last time; redirect a failed stream to /dev/null, or Python's own flush at exit would fail."""
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
    """Open closed standard streams on /dev/null, or the next file that is opened would become standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _run(main: Callable[[Sequence[str]], int | None], description: str | None, arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if bad := [word for word in words if _has_surrogates(word)]:
        print(f"error: this argument is not UTF-8: {bad[0]!a}; rename the file, or quote it", file=sys.stderr)
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
    except BrokenPipeError:  # `| head`: the reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {show(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR


def show(text: str) -> str:
    """Return `text` with control and invisible characters, except newline and tab, as escape sequences."""
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
