"""Calls that no opcode names: what an unpickler does with the arguments and attributes of things that look harmless.

A `map` made by NEWOBJ runs its function once `list` walks over it; an object with an attribute `append` is called by
APPEND; a dictionary with a factory calls it for a missing key. Each function here yields what would be called.
Sources: CPython, Modules/_pickle.c (do_append, load_build, load_additems); torch/_tensor.py, torch/_utils.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from ckptfix.formats.pickle_globals import CALLED_THROUGH, DICTIONARIES, classify
from ckptfix.formats.pickle_nodes import Call, Global, PickledDict

# Attributes that the opcodes APPEND, APPENDS and ADDITEMS, and BUILD, look up on the object itself and call.
ADDING: Final = ("append", "extend", "add")
BUILDING: Final = ("__setstate__",)
_LIBRARY: Final = sys.stdlib_module_names | {"__builtin__"}

Called = tuple[Any, str]  # a global, or what a call made; and how it is used, in the words of `Use`


def called_by_call(callee: Global, arguments: tuple[Any, ...]) -> Iterator[Called]:
    """What `callee(*arguments)` calls in turn; it walks over the instances that it is given."""
    for place, how in enumerate(CALLED_THROUGH.get(str(callee), ())[: len(arguments)]):
        if arguments[place] is not None:
            yield arguments[place], how
    for argument in arguments:
        if _is_opaque(argument):
            yield argument.callee, "call"
        elif str(callee) in DICTIONARIES and isinstance(argument, list | tuple):  # each value is walked over as a pair
            yield from ((pair.callee, "call") for pair in argument if _is_opaque(pair))


def called_by_making(callee: Global, arguments: tuple[Any, ...]) -> Iterator[Called]:
    """What an instance of a class of Python's own library was given to call; a dictionary only keeps a factory."""
    if callee.module.partition(".")[0] not in _LIBRARY:
        return
    for argument in arguments:
        if _is_opaque(argument):
            yield argument.callee, "call"
        elif isinstance(argument, Global) and classify((argument.module, argument.name, "call")) == "unsafe":
            yield argument, "call"


def called_by_name(state: Any, names: tuple[str, ...]) -> Iterator[Called]:
    """The attributes of these names that BUILD set, as far as they can be called."""
    for attributes in state if isinstance(state, tuple) else (state,):
        items = attributes.items or () if isinstance(attributes, PickledDict) else ()
        for index in range(0, len(items) - 1, 2):
            value = items[index + 1]
            if isinstance(items[index], str) and items[index] in names and isinstance(value, Global | Call):
                yield value.callee if isinstance(value, Call) else value, "call"


def _is_opaque(value: Any) -> bool:
    """Whether it is an instance of a class that the reader does not know."""
    if not isinstance(value, Call):
        return False
    callee = value.callee
    return not isinstance(callee, Global) or classify((callee.module, callee.name, "make")) == "foreign"
