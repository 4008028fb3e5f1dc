"""The state of a pickle machine: stack, marks, memo, and the record of every use of a global."""

from __future__ import annotations

import pickletools
from typing import Any, Final

from ckptfix.formats.limits import Limits, limit_error
from ckptfix.formats.pickle_gadgets import ADDING, BUILDING, called_by_call, called_by_making, called_by_name
from ckptfix.formats.pickle_globals import DICTIONARIES, TENSOR_BUILDERS
from ckptfix.formats.pickle_nodes import (
    COMPUTED,
    Call,
    Global,
    Long,
    PersistentId,
    PickledDict,
    PickledSet,
    PickleError,
    Use,
)

_LENGTH_BYTES: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class Machine:
    """One run over one pickle; `offset` is where the current opcode stands, `position` where the next byte is read.

    `fence` is the height that the stack may not sink below: where its last mark is.
    """

    __slots__ = (
        *(
            "_handed_over",
            "data",
            "fence",
            "limits",
            "marks",
            "memo",
            "offset",
            "persistent",
            "position",
            "stack",
            "uses",
        ),
    )

    def __init__(self, data: bytes, start: int, limits: Limits) -> None:
        self.uses: dict[Use, int] = {}
        self.persistent: list[PersistentId] = []
        self.data = data
        self.position = start
        self.offset = start
        self.limits = limits
        self.stack: list[Any] = []
        self.fence = 0
        self.marks: list[int] = []  # the fences below this one
        self.memo: dict[int, Any] = {}
        self._handed_over = 0  # values

    # -- arguments -------------------------------------------------------------------------------------------------

    def argument(self, size: int) -> bytes:
        """The bytes of an argument without a fixed size; `size` is one of the negative codes of pickletools."""
        if size == pickletools.UP_TO_NEWLINE:
            return self.line()
        return self.take(int.from_bytes(self.take(_LENGTH_BYTES[size]), "little"))

    def take(self, count: int) -> bytes:
        start, end = self.position, self.position + count
        if end > len(self.data):
            raise PickleError("the pickle ends inside a value", truncated=True)
        self.position = end
        return self.data[start:end]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise PickleError("the pickle ends inside a line", truncated=True)
        line = self.data[self.position : end]
        self.position = end + 1
        return line

    # -- stack and memo --------------------------------------------------------------------------------------------

    def pop(self) -> Any:
        stack = self.stack
        if len(stack) <= self.fence:
            raise self._underflow()
        return stack.pop()

    def pop_last(self, count: int) -> list[Any]:
        stack = self.stack
        height = len(stack) - count
        if height < self.fence:
            raise self._underflow()
        taken = stack[height:]
        del stack[height:]
        return taken

    def top(self) -> Any:
        if len(self.stack) <= self.fence:
            raise self._underflow()
        return self.stack[-1]

    def mark(self) -> None:
        self.marks.append(self.fence)
        self.fence = len(self.stack)

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleError(f"the pickle has no mark for byte {self.offset:,}")
        taken = self.stack[self.fence :]
        del self.stack[self.fence :]
        self.fence = self.marks.pop()
        return taken

    def _underflow(self) -> PickleError:
        return PickleError(f"the pickle takes more from the stack than is there, at byte {self.offset:,}")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def store(self, index: int) -> None:
        if len(self.memo) >= self.limits.memo:
            raise limit_error("memo", f"the pickle memoizes over {self.limits.memo:,} values")
        if not 0 <= index < 1 << 32:
            raise PickleError(f"the pickle has a memo index out of range at byte {self.offset:,}")
        self.memo[index] = self.top()

    def fetch(self, index: int) -> None:
        if not 0 <= index < 1 << 32 or index not in self.memo:
            raise PickleError(f"the pickle fetches memo {min(index, 1 << 32):,}, never stored, at byte {self.offset:,}")
        self.stack.append(self.memo[index])

    # -- globals and what would be done with them ------------------------------------------------------------------

    def use(self, thing: Any, how: str) -> None:
        use = (thing.module, thing.name, how) if isinstance(thing, Global) else ("", COMPUTED, how)
        if use in self.uses:
            return
        if len(self.uses) >= self.limits.globals:
            raise limit_error("globals", f"the pickle names over {self.limits.globals:,} globals")
        self.uses[use] = self.offset

    def push_global(self, module: Any, name: Any) -> None:
        longest = self.limits.key_length
        if not isinstance(module, str) or not isinstance(name, str) or max(len(module), len(name)) > longest:
            raise PickleError(f"the pickle has an ill-formed global at byte {self.offset:,}")
        found = Global(module, name, self.offset)
        self.use(found, "name")
        self.push(found)

    def make(self, callee: Any, arguments: Any, how: str) -> None:
        """Push what a call of `callee` ("call") or an instance of it ("make") would be."""
        if not isinstance(arguments, tuple):
            raise PickleError(f"the pickle calls something with no tuple of arguments at byte {self.offset:,}")
        self.use(callee, how)
        if not isinstance(callee, Global):
            self.push(Call(callee, arguments, self.offset))
            return
        self._count_handed_over(str(callee), arguments)
        for inner, inner_how in (called_by_call if how == "call" else called_by_making)(callee, arguments):
            self.use(inner, inner_how)
        made = self._plain(str(callee), arguments, how)
        self.push(Call(callee, arguments, self.offset) if made is None else made)

    def _count_handed_over(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Every call looks at its arguments, and a dictionary copies what it is made of: one list in many calls."""
        self._handed_over += len(arguments)
        for argument in arguments if name in DICTIONARIES else ():
            values = argument.items if isinstance(argument, PickledDict) else argument
            self._handed_over += len(values) if isinstance(values, list | tuple) else 0
        if self._handed_over > self.limits.nodes:
            raise limit_error("nodes", f"the pickle hands over {self.limits.nodes:,} values to calls")

    @staticmethod
    def _plain(name: str, arguments: tuple[Any, ...], how: str) -> Any:
        """What a dictionary type or the byte encoder makes, or None for anything else."""
        if name in DICTIONARIES:
            if how == "make":  # their __new__ looks at no argument
                return PickledDict()
            return _dictionary(arguments[name == "collections.defaultdict" :], counts=name == "collections.Counter")
        if name == "__builtin__.bytes" and not arguments:
            return b""
        if name == "_codecs.encode" and len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
            # how protocols 0 to 2 write bytes
            return _latin(arguments[0])
        return None

    def persist(self, value: Any) -> None:
        """Push a storage; a module class, which torch wraps to keep its source text beside it, is just the class."""
        if isinstance(value, tuple) and len(value) >= 2 and value[0] == "module" and isinstance(value[1], Global):
            self.push(value[1])
            return
        found = PersistentId(value)
        self.persistent.append(found)
        self.push(found)

    def extend(self, target: Any, values: list[Any], *, pairs: bool) -> None:
        if pairs and len(values) % 2:
            raise PickleError(f"the pickle sets a key without a value at byte {self.offset:,}")
        if isinstance(target, Global):
            self.use(target, "change")
            return
        self._refuse_finished(target, ADDING)
        if pairs and isinstance(target, (PickledDict, Call)) and not _builds_tensor(target):
            target.items = [] if target.items is None else target.items
            target.items += values
        elif not pairs and isinstance(target, list):
            target += values
        elif not pairs and isinstance(target, (PickledSet, Call)) and not _builds_tensor(target):
            target.elements = [] if target.elements is None else target.elements
            target.elements += values
        else:
            raise PickleError(f"the pickle adds items to something that takes none, at byte {self.offset:,}")

    def build(self, state: Any) -> None:
        target = self.top()
        if _builds_tensor(target):  # torch would call set_ with the state: another shape, another storage
            raise PickleError(f"the pickle changes a finished tensor at byte {self.offset:,}")
        self._refuse_finished(target, BUILDING)
        if isinstance(target, (Call, PickledDict)):
            target.state = state
        else:
            self.use(target, "change")

    def _refuse_finished(self, target: Any, hooks: tuple[str, ...]) -> None:
        """Attributes come last: what follows them would be done by them, and no pickler writes it."""
        if isinstance(target, Call | PickledDict) and target.state is not None:
            for value, how in called_by_name(target.state, hooks):
                self.use(value, how)
            raise PickleError(f"the pickle changes a finished object at byte {self.offset:,}")


def _builds_tensor(target: Any) -> bool:
    return isinstance(target, Call) and isinstance(target.callee, Global) and str(target.callee) in TENSOR_BUILDERS


def _latin(text: Any) -> bytes | Long | None:
    if isinstance(text, Long):
        return Long("bytes", text.size)
    return text.encode("latin-1") if isinstance(text, str) else None


def _dictionary(given: tuple[Any, ...], *, counts: bool) -> PickledDict | None:
    """The dictionary made of another one or of pairs; a Counter would count the pairs."""
    if not given:
        return PickledDict()
    pairs = given[0]
    if isinstance(pairs, PickledDict):
        return PickledDict(list(pairs.items or ()))
    if counts or not isinstance(pairs, (list, tuple)):
        return None
    if all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        return PickledDict([part for pair in pairs for part in pair])
    return None
