"""Reads a pickle into inert records: it imports nothing, calls nothing, and ends within its budgets.

The opcodes and the sizes of their arguments come from the standard library's `pickletools`. What an unpickler would
import is a `Global` (two strings), what it would call is a `Call`, what it would fetch is a `PersistentId`. Values
from the file are never hashed (a deep tuple overflows the C stack, colliding integers make a dictionary quadratic),
compared or printed.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from ckptfix.formats.limits import DEFAULT_LIMITS, Limits, limit_error
from ckptfix.formats.pickle_machine import Machine
from ckptfix.formats.pickle_nodes import (
    LONG,
    Long,
    Pickled,
    PickledDict,
    PickledSet,
    PickleError,
)


def read_pickle(data: bytes, start: int = 0, *, limits: Limits = DEFAULT_LIMITS) -> Pickled:
    """Read the pickle at `start`. Raises `PickleError` if it is malformed, `UnsafeError` (limit) over a budget."""
    machine = Machine(data, start, limits)
    try:
        return _run(machine, limits.opcodes)
    except PickleError as error:
        error.uses = machine.uses
        raise


def _run(machine: Machine, budget: int) -> Pickled:
    data, end = machine.data, len(machine.data)
    for _ in range(budget):
        position = machine.offset = machine.position
        if position >= end:
            raise PickleError("the pickle ends before its STOP", truncated=True)
        size, handler = _OPCODES[data[position]]
        position += 1
        machine.position = position + size if size > 0 else position
        try:
            if size < 0:
                handler(machine, machine.argument(size))
            elif machine.position > end:
                raise PickleError("the pickle ends inside a value", truncated=True)
            else:
                handler(machine, data[position : position + size])
        except _StopPickle:
            return Pickled(machine.pop(), machine.position, machine.uses, machine.persistent)
        except (ValueError, OverflowError, struct.error) as error:
            raise PickleError(f"the pickle holds an ill-formed value at byte {machine.offset:,}") from error
    raise limit_error("opcodes", f"the pickle has over {budget:,} opcodes")


class _StopPickle(Exception):  # noqa: N818 - a signal, not an error
    """The STOP opcode."""


# -- values ------------------------------------------------------------------------------------------------------------


def _text(argument: bytes) -> Any:
    return Long("text", len(argument)) if len(argument) > LONG else argument.decode("utf-8", "surrogatepass")


def _old_text(argument: bytes) -> Any:
    """A string of Python 2, which means text in a checkpoint; bytes if it is none."""
    if len(argument) > LONG:
        return Long("text", len(argument))
    try:
        return argument.decode("utf-8")
    except UnicodeDecodeError:
        return argument


def _escaped(argument: bytes) -> Any:
    return Long("text", len(argument)) if len(argument) > LONG else argument.decode("raw-unicode-escape")


def _bytes(argument: bytes) -> Any:
    return Long("bytes", len(argument)) if len(argument) > LONG else argument


def _quoted(argument: bytes) -> Any:
    if len(argument) < 2 or argument[:1] != argument[-1:] or argument[:1] not in b"'\"":
        raise ValueError("string without quotes")
    return _old_text(codecs.escape_decode(argument[1:-1])[0])


def _decimal(argument: bytes) -> int:
    return int(argument[:-1] if argument.endswith(b"L") else argument)


def _int_or_bool(argument: bytes) -> int | bool:
    return argument == b"01" if argument in (b"00", b"01") else _decimal(argument)


def _little(argument: bytes) -> int:
    return int.from_bytes(argument, "little")


def _signed(argument: bytes) -> int:
    return int.from_bytes(argument, "little", signed=True)


# -- opcodes -----------------------------------------------------------------------------------------------------------

Handler = Callable[[Machine, bytes], None]


def _value(decode: Callable[[bytes], Any]) -> Handler:
    return lambda machine, argument: machine.stack.append(decode(argument))


def _made(make: Callable[[], Any]) -> Handler:
    return lambda machine, argument: machine.stack.append(make())


def _constant(value: Any) -> Handler:
    return lambda machine, argument: machine.stack.append(value)


def _nothing(machine: Machine, argument: bytes) -> None:
    """PROTO, FRAME and READONLY_BUFFER build nothing."""


def _stop(machine: Machine, argument: bytes) -> None:
    raise _StopPickle


def _unknown(machine: Machine, argument: bytes) -> None:
    raise PickleError(f"byte {machine.offset:,} is no pickle opcode")


def _pop(machine: Machine, argument: bytes) -> None:
    if machine.marks and len(machine.stack) == machine.fence:
        machine.since_mark()
    else:
        machine.pop()


def _pop_mark(machine: Machine, argument: bytes) -> None:
    machine.since_mark()


def _tuple(size: int) -> Handler:
    return lambda machine, argument: machine.stack.append(tuple(machine.pop_last(size)))


def _marked_dict(machine: Machine, argument: bytes) -> None:
    values = machine.since_mark()
    machine.push(PickledDict())
    machine.extend(machine.top(), values, pairs=True)


def _append(machine: Machine, argument: bytes) -> None:
    values = machine.pop_last(1)
    machine.extend(machine.top(), values, pairs=False)


def _appends(machine: Machine, argument: bytes) -> None:
    values = machine.since_mark()
    machine.extend(machine.top(), values, pairs=False)


def _setitem(machine: Machine, argument: bytes) -> None:
    values = machine.pop_last(2)
    machine.extend(machine.top(), values, pairs=True)


def _setitems(machine: Machine, argument: bytes) -> None:
    values = machine.since_mark()
    machine.extend(machine.top(), values, pairs=True)


def _global(machine: Machine, argument: bytes) -> None:
    machine.push_global(argument.decode("utf-8"), machine.line().decode("utf-8"))


def _stack_global(machine: Machine, argument: bytes) -> None:
    machine.push_global(*machine.pop_last(2))


def _extension(machine: Machine, argument: bytes) -> None:
    machine.push_global("copyreg", f"extension {_little(argument)}")


def _reduce(machine: Machine, argument: bytes) -> None:
    callee, arguments = machine.pop_last(2)
    machine.make(callee, arguments, "call")


def _newobj(machine: Machine, argument: bytes) -> None:
    callee, arguments = machine.pop_last(2)
    machine.make(callee, arguments, "make")


def _newobj_ex(machine: Machine, argument: bytes) -> None:
    callee, arguments, keywords = machine.pop_last(3)
    if not isinstance(arguments, tuple) or not isinstance(keywords, PickledDict):
        raise PickleError(f"the pickle makes an object of no arguments at byte {machine.offset:,}")
    machine.make(callee, (*arguments, *(keywords.items or ())[1::2]), "make")


def _inst(machine: Machine, argument: bytes) -> None:
    arguments = tuple(machine.since_mark())
    _global(machine, argument)
    machine.make(machine.pop(), arguments, "call")


def _obj(machine: Machine, argument: bytes) -> None:
    values = machine.since_mark()
    if not values:
        raise PickleError(f"the pickle makes an object of nothing at byte {machine.offset:,}")
    machine.make(values[0], tuple(values[1:]), "call")


def _build(machine: Machine, argument: bytes) -> None:
    state = machine.pop()
    machine.build(state)


_HANDLERS: Final[Mapping[str, Handler]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "STOP": _stop,
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "INT": _value(_int_or_bool),
    "LONG": _value(_decimal),
    "BININT": _value(_signed),
    "BININT1": _value(_little),
    "BININT2": _value(_little),
    "LONG1": _value(_signed),
    "LONG4": _value(_signed),
    "FLOAT": _value(float),
    "BINFLOAT": _value(lambda argument: struct.unpack(">d", argument)[0]),
    "STRING": _value(_quoted),
    "BINSTRING": _value(_old_text),
    "SHORT_BINSTRING": _value(_old_text),
    "UNICODE": _value(_escaped),
    "SHORT_BINUNICODE": _value(_text),
    "BINUNICODE": _value(_text),
    "BINUNICODE8": _value(_text),
    "BINBYTES": _value(_bytes),
    "SHORT_BINBYTES": _value(_bytes),
    "BINBYTES8": _value(_bytes),
    "BYTEARRAY8": _value(_bytes),
    "NEXT_BUFFER": _constant(Long("out-of-band buffer", 0)),
    "READONLY_BUFFER": _nothing,
    "EMPTY_LIST": _made(list),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_DICT": _made(PickledDict),
    "EMPTY_SET": _made(PickledSet),
    "LIST": lambda machine, argument: machine.push(machine.since_mark()),
    "TUPLE": lambda machine, argument: machine.push(tuple(machine.since_mark())),
    "FROZENSET": lambda machine, argument: machine.push(PickledSet(machine.since_mark())),
    "DICT": _marked_dict,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _appends,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "MARK": lambda machine, argument: machine.mark(),
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, argument: machine.push(machine.top()),
    "GET": lambda machine, argument: machine.fetch(_decimal(argument)),
    "BINGET": lambda machine, argument: machine.fetch(_little(argument)),
    "LONG_BINGET": lambda machine, argument: machine.fetch(_little(argument)),
    "PUT": lambda machine, argument: machine.store(_decimal(argument)),
    "BINPUT": lambda machine, argument: machine.store(_little(argument)),
    "LONG_BINPUT": lambda machine, argument: machine.store(_little(argument)),
    "MEMOIZE": lambda machine, argument: machine.store(len(machine.memo)),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "EXT1": _extension,
    "EXT2": _extension,
    "EXT4": _extension,
    "REDUCE": _reduce,
    "NEWOBJ": _newobj,
    "NEWOBJ_EX": _newobj_ex,
    "INST": _inst,
    "OBJ": _obj,
    "BUILD": _build,
    "PERSID": lambda machine, argument: machine.persist(argument.decode("ascii")),
    "BINPERSID": lambda machine, argument: machine.persist(machine.pop()),
}
_KNOWN: Final = {
    ord(opcode.code): (opcode.arg.n if opcode.arg else 0, _HANDLERS[opcode.name]) for opcode in pickletools.opcodes
}
_OPCODES: Final = [_KNOWN.get(code, (0, _unknown)) for code in range(256)]
