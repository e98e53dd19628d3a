"""Interpret a pickle's opcodes without importing or calling anything that it names.

Python's unpickler hashes and compares nested values in C without a limit, so a few hundred bytes can hang or crash it.
This interpreter builds plain values and looks up every named class in the caller's table; a name that is not in the
table becomes a `StandIn`.
"""

import pickletools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

MAX_OPCODES = 1_000_000
"""25 times a ResNet-152 with optimizer state, which needs about 40,000."""
_MAX_KEY_LENGTH = 64
"""Items of a tuple used as a dictionary key; bounds the cost of hashing."""

Build = Callable[..., Any]
"""Takes the arguments that the pickle passes to a name; returns the value."""


class UnsafePickleError(ValueError):
    """The pickle is damaged or needs more than tensors and plain values; the text says which."""


class BoundedReader:
    """Read at most `size` bytes of a stream, whatever lengths the file declares."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.left = stream, size

    def read(self, count: int = -1) -> bytes:
        """Return at most `count` bytes; all remaining bytes if `count` is negative."""
        data = self._stream.read(min(count, self.left) if count >= 0 else self.left)
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        """Return one line of at most 64 KiB, newline included."""
        data = self._stream.readline(min(self.left, 65536))
        self.left -= len(data)
        return data


class Name:
    """A class or function that the pickle names ("module.name"); never imported."""

    def __init__(self, text: str) -> None:
        self.text = text


class Instance:
    """An object of a class that the pickle names: constructor arguments, state and items."""

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None
        self.items: dict[Any, Any] = {}
        """Items of an instance of a dict subclass."""


class StandIn(Instance):
    """An object of a class that is not in the caller's table."""

    def content(self) -> dict[Any, Any]:
        """Return its attributes and items as one dictionary."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return {**(state if isinstance(state, dict) else {}), **self.items}


_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleMachine:
    """Interpreter for one pickle; `unknown` collects the called names that are not in the table."""

    def __init__(self, table: Mapping[str, Build], persistent: Callable[[Any], Any] | None = None) -> None:
        self.table, self.persistent = table, persistent
        self.unknown: set[str] = set()
        self.named: set[str] = set()
        """All names in the pickle, called or not."""
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        """The stacks below each mark."""
        self.memo: dict[int, Any] = {}

    def load(self, stream: BinaryIO, size: int) -> Any:
        """Return the value of the pickle at the stream's position, of at most `size` bytes; stop after its end.

        Raises:
            UnsafePickleError: truncated, damaged, or an opcode, memo index or key that no writer of weights uses.

        """
        reader = BoundedReader(stream, size)
        try:
            # Python only warns about a string with an invalid escape; no pickle of weights holds one.
            with warnings.catch_warnings(action="error"):
                for count, (opcode, argument, _) in enumerate(pickletools.genops(reader)):  # type: ignore[arg-type]
                    if count > MAX_OPCODES:
                        raise UnsafePickleError(f"it has more than {MAX_OPCODES} pickle opcodes")
                    self._step(opcode.name, argument)
        except UnsafePickleError:
            raise
        except (ValueError, OverflowError, MemoryError, UnicodeError, EOFError, Warning) as error:
            raise UnsafePickleError(f"it is cut short or is not a pickle ({error})") from error
        except Exception as error:  # a hostile file may violate any assumption of an opcode
            raise UnsafePickleError(f"its pickle is damaged ({type(error).__name__}: {error})") from error
        if self.outer or len(self.stack) != 1:
            raise UnsafePickleError("its pickle is damaged (it does not end with one value)")
        return self.stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            self.stack[-_TUPLES[name] :] = [tuple(self._take(_TUPLES[name]))]
        elif name not in _IGNORED:
            operation = getattr(self, f"_do_{name.lower()}", None)
            if operation is None:
                raise UnsafePickleError(f"it uses the pickle opcode {name}, which no writer of weights needs")
            operation(argument)

    def _take(self, count: int) -> list[Any]:
        """Return the topmost `count` values without removing them."""
        if len(self.stack) < count:
            raise UnsafePickleError("its pickle is damaged (a value is missing on its stack)")
        return self.stack[-count:]

    def _pop(self) -> Any:
        (value,) = self._take(1)
        del self.stack[-1]
        return value

    def _pop_mark(self) -> list[Any]:
        if not self.outer:
            raise UnsafePickleError("its pickle is damaged (a mark is missing on its stack)")
        values, self.stack = self.stack, self.outer.pop()
        return values

    def _do_mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def _do_pop(self, _: Any) -> None:
        if self.stack:
            del self.stack[-1]
        else:
            self._pop_mark()

    def _do_pop_mark(self, _: Any) -> None:
        self._pop_mark()

    def _do_dup(self, _: Any) -> None:
        self.stack.append(self._take(1)[0])

    def _do_put(self, index: int) -> None:
        if not 0 <= index <= MAX_OPCODES:
            raise UnsafePickleError(f"it declares the memo index {index}")
        self.memo[index] = self._take(1)[0]

    _do_binput = _do_long_binput = _do_put

    def _do_memoize(self, _: Any) -> None:
        self._do_put(len(self.memo))

    def _do_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _do_binget = _do_long_binget = _do_get

    def _do_list(self, _: Any) -> None:
        values = self._pop_mark()  # first, because it replaces self.stack
        self.stack.append(values)

    def _do_tuple(self, _: Any) -> None:
        values = self._pop_mark()
        self.stack.append(tuple(values))

    def _do_frozenset(self, _: Any) -> None:
        values = self._pop_mark()
        self.stack.append(frozenset(check_key(value) for value in values))

    def _do_dict(self, _: Any) -> None:
        values = self._pop_mark()
        self.stack.append(_pair(values))

    def _do_append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _do_appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    def _extend(self, values: list[Any]) -> None:
        (target,) = self._take(1)
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Instance):
            raise UnsafePickleError(f"its pickle is damaged (it appends to a {type(target).__name__})")

    def _do_additems(self, _: Any) -> None:
        values = self._pop_mark()
        self._take(1)[0].update(check_key(value) for value in values)

    def _do_setitem(self, _: Any) -> None:
        value = self._pop()
        self._update({check_key(self._pop()): value})

    def _do_setitems(self, _: Any) -> None:
        self._update(_pair(self._pop_mark()))

    def _update(self, items: dict[Any, Any]) -> None:
        (target,) = self._take(1)
        if isinstance(target, Instance):
            target = target.items
        if not isinstance(target, dict):
            raise UnsafePickleError(f"its pickle is damaged (it sets an item of a {type(target).__name__})")
        target.update(items)

    def _do_global(self, text: str) -> None:
        self._push_name(text.replace(" ", "."))

    def _do_stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise UnsafePickleError("its pickle is damaged (a class name is not a string)")
        self._push_name(f"{module}.{name}")

    def _push_name(self, text: str) -> None:
        self.named.add(text)
        self.stack.append(Name(text))

    def _do_reduce(self, _: Any) -> None:
        arguments = self._pop()
        self.stack.append(self._call(self._pop(), arguments))

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, _: Any) -> None:
        self._pop()
        self._do_reduce(None)

    def _call(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise UnsafePickleError("its pickle is damaged (it calls something that is not a class)")
        if name.text in ("copyreg._reconstructor", "copy_reg._reconstructor") and arguments:
            made = self._call(arguments[0], ())
            if isinstance(made, Instance) and isinstance(arguments[-1], dict):
                made.items.update(arguments[-1])
            return made
        if build := self.table.get(name.text):
            return build(*arguments)
        self.unknown.add(name.text)
        return StandIn(name.text, arguments)

    def _do_build(self, _: Any) -> None:
        state = self._pop()
        (target,) = self._take(1)
        if isinstance(target, Instance):
            target.state = state

    def _do_binpersid(self, _: Any) -> None:
        if self.persistent is None:
            raise UnsafePickleError("it uses the pickle opcode BINPERSID, which a file of arrays does not need")
        self.stack.append(self.persistent(self._pop()))


def check_key(key: Any) -> Any:
    """Return a dictionary key or set member unchanged; raise UnsafePickleError if hashing it could be unbounded."""
    plain = str | int | float | complex | bytes | None
    if isinstance(key, tuple) and len(key) <= _MAX_KEY_LENGTH and all(isinstance(part, plain) for part in key):
        return key
    if not isinstance(key, plain | Name | Instance):
        raise UnsafePickleError(
            f"a dictionary in it has a key of type {type(key).__name__} that holds more than plain values"
        )
    return key


def _pair(values: list[Any]) -> dict[Any, Any]:
    return {check_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}
