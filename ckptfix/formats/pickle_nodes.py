"""What the pickle machine builds: inert records that stand for what an unpickler would import, call or fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

LONG: Final = 1 << 20  # bytes; longer texts and byte strings are left unread
COMPUTED: Final = "a computed callable"  # what is called is no global but the result of another call

Use = tuple[str, str, str]  # module, name, how: "call", "make", "change" or "name"


class PickleError(Exception):
    """The bytes are no well-formed pickle; `truncated` if they only end too early. Never leaves `ckptfix.formats`."""

    def __init__(self, message: str, *, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated
        self.uses: Mapping[Use, int] = {}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Global:
    """A name that an unpickler would import; `offset` in bytes from the start of the data."""

    module: str
    name: str
    offset: int

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Long:
    """A text or byte string left unread because of its size in bytes."""

    kind: str
    size: int


@dataclass(slots=True, eq=False, repr=False)
class PickledDict:
    """A dictionary as written: keys and values in turn, later keys win; `state` is what BUILD would set on it."""

    items: list[Any] | None = None
    state: Any = None


@dataclass(slots=True, eq=False, repr=False)
class PickledSet:
    """A set as written."""

    elements: list[Any] | None = None


@dataclass(slots=True, eq=False, repr=False)
class PersistentId:
    """An object kept outside the pickle: in a torch file, a storage."""

    value: Any


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """What an unpickler would make from `callee`; `offset` is that of the REDUCE, NEWOBJ, INST or OBJ."""

    callee: Any
    arguments: Any
    offset: int
    state: Any = None
    items: list[Any] | None = None  # keys and values in turn
    elements: list[Any] | None = None


@dataclass(slots=True)
class Pickled:
    """What one pickle holds; `end` is the position after its STOP.

    `uses` maps each use of a global to the offset of the first, `persistent` lists the storages in the file's order.
    """

    root: Any
    end: int
    uses: Mapping[Use, int]
    persistent: Sequence[PersistentId] = ()
