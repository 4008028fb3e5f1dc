"""Turns what a torch pickle describes into tensors: names, shapes, dtypes and where their bytes lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptfix.errors import UnreadableError
from ckptfix.formats.limits import Limits, limit_error
from ckptfix.formats.pickle_globals import (
    DENSE_BUILDERS,
    PARAMETER_BUILDERS,
    REFUSED_BUILDERS,
    SUBCLASS_BUILDERS,
    TENSOR_BUILDERS,
    storage_dtype,
)
from ckptfix.formats.pickle_nodes import Call, Global, PersistentId, PickledDict
from ckptfix.formats.pickle_tree import Tree, dictionary
from ckptfix.manifest import DTYPE_OF_TORCH, Span, TensorInfo
from ckptfix.text import plural, printable

_MAX_RANK = 64
_MAX_SIZE = 1 << 63
_MAX_ATTRIBUTES = 100
_VALUE_ATTRIBUTES = frozenset({"data", "real", "imag", "__class__", "__dict__"})


@dataclass(frozen=True, slots=True)
class StorageId:
    """What a pickle says about a storage: torch's dtype ("" if untyped), key, device, length in elements.

    `view` is (key, offset, length) of a legacy storage view, in elements.
    """

    dtype: str
    key: str
    location: str
    elements: int
    view: tuple[str, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a storage lies: `offset` and `size` in bytes inside a record."""

    record: str
    offset: int
    size: int


Locate = Callable[[StorageId], Storage | None]


class RefusedError(Exception):
    """A tensor that cannot be had as dense bytes; the others can."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(slots=True)
class Contents:
    """`refused` maps a name to (code, reason), `absent` lists the tensors whose storage is not in the file."""

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    locations: set[str] = field(default_factory=set)


def collect_tensors(root: Any, locate: Locate, stored: int, limits: Limits, source: str) -> Contents:
    """All tensors below `root`, in the file's order; `stored` is the number of bytes that the records hold together.

    `locate` finds a storage, or answers None where it is missing from the file.
    Raises `UnreadableError` for two tensors of one name, names that no reader can take, and tensors that reach
    outside their storage; `UnsafeError` (limit) over a budget.
    """
    tree = Tree(root, is_tensor, limits)
    contents = Contents()
    builder = _Builder(locate, contents.locations)
    ledger = _Ledger(max(limits.logical_floor, limits.logical_ratio * stored), limits, source)
    for path, call in tree.walk():
        name = ".".join(path) if path else "tensor"
        ledger.check_name(name)
        try:
            found = builder.build(name, path, call)
        except RefusedError as refusal:
            contents.refused[name] = (refusal.code, refusal.reason)
            continue
        except IllFormedError as error:
            raise UnreadableError(
                f"tensor {printable(name)}: {error}",
                hint="the file is damaged or was made to mislead; get it again from its source",
                code="bounds",
                source=source,
            ) from error
        if found is None:
            contents.absent.append(name)
            continue
        ledger.add(found, contents.tensors)
    contents.objects = tree.objects
    return contents


def is_tensor(node: Any) -> bool:
    """Whether a node is a call of one of torch's tensor builders."""
    return isinstance(node, Call) and isinstance(node.callee, Global) and str(node.callee) in TENSOR_BUILDERS


class IllFormedError(Exception):
    """A tensor whose description contradicts itself or the file."""


class _Ledger:
    """Adds tensors up against the budgets."""

    def __init__(self, logical_bytes: int, limits: Limits, source: str) -> None:
        self._logical_bytes = self._logical_left = logical_bytes
        self._names_left = limits.name_bytes
        self._limits = limits
        self._source = source
        self._views: dict[str, int] = {}
        self._seen: set[str] = set()

    def check_name(self, name: str) -> None:
        limits = self._limits
        if len(self._seen) >= limits.tensors:
            raise limit_error("tensors", f"the file has over {limits.tensors:,} tensors")
        self._names_left -= len(name)
        if self._names_left < 0 or len(name) > limits.name_length:
            budget = "name_bytes" if self._names_left < 0 else "name_length"
            raise limit_error(budget, "the names of the tensors are too long")
        if name in self._seen:
            raise name_error(f"two tensors are both named {printable(name)}", self._source)
        self._seen.add(name)
        check_name(name, self._source)

    def add(self, tensor: TensorInfo, tensors: dict[str, TensorInfo]) -> None:
        self._logical_left -= tensor.nbytes
        if self._logical_left < 0:
            raise limit_error(
                "logical_ratio",
                f"tensor {printable(tensor.name)} claims {plural(tensor.nbytes, 'byte')}, which brings all tensors to "
                f"over {self._logical_bytes:,}, {self._limits.logical_ratio} times what the file stores",
            )
        views = self._views.get(tensor.span.record, 0) + 1
        if views > self._limits.aliases:
            raise limit_error("aliases", f"over {self._limits.aliases:,} tensors share one storage")
        self._views[tensor.span.record] = views
        tensors[tensor.name] = tensor


def check_name(name: str, source: str) -> None:
    """Refuse a tensor name that no other reader could take."""
    if "\0" in name:
        raise name_error(f"the tensor name {printable(name)} holds a NUL character", source)
    if name == "__metadata__":
        raise name_error("a tensor is named __metadata__, which safetensors keeps for itself", source)
    if not name.isascii() and any("\ud800" <= char <= "\udfff" for char in name):
        raise name_error(f"the tensor name {printable(name)} is no valid Unicode", source)


def name_error(message: str, source: str) -> UnreadableError:
    """The refusal of a file whose tensor names cannot be told apart or written down."""
    return UnreadableError(message, hint="rename the tensors where the file was made", code="name", source=source)


class _Builder:
    """Builds a `TensorInfo` from the call that torch would make."""

    def __init__(self, locate: Locate, locations: set[str]) -> None:
        self._locate = locate
        self._locations = locations

    def build(self, name: str, path: tuple[str, ...], call: Call) -> TensorInfo | None:
        """The tensor, or None where its storage is missing. Raises `RefusedError`, `IllFormedError`."""
        builder, arguments = _unwrap(call)
        if builder in REFUSED_BUILDERS:
            kind = REFUSED_BUILDERS[builder]
            code = kind if kind in ("quantised", "sparse") else "unsupported"
            raise RefusedError(code, f"is a {kind} tensor, which has no plain values to copy")
        if len(arguments) < 4:
            raise IllFormedError("its description is incomplete")
        identity = storage_id(arguments[0])
        offset, shape, strides = _number(arguments[1]), _numbers(arguments[2]), _numbers(arguments[3])
        if len(shape) != len(strides):
            raise IllFormedError(f"has {len(shape)} sizes but {len(strides)} strides")
        typed_late = builder.endswith("_v3")
        word = _dtype_word(arguments[6]) if typed_late and len(arguments) > 6 else identity.dtype
        _check_metadata(arguments[7:8] if typed_late else arguments[6:7])
        dtype = DTYPE_OF_TORCH.get(word)
        if dtype is None:
            quantised = word.startswith(("qint", "quint"))
            raise RefusedError(
                "quantised" if quantised else "dtype", f"has elements of type {printable(word) or 'none'}"
            )
        storage = self._locate(identity)
        if storage is None:
            return None
        self._locations.add(identity.location)
        start = 0
        if math.prod(shape):
            needed = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
            if needed * dtype.itemsize > storage.size:
                raise IllFormedError(f"needs {needed * dtype.itemsize:,} bytes of a storage that has {storage.size:,}")
            start = offset * dtype.itemsize
        return TensorInfo(name, shape, dtype, Span(storage.record, storage.offset + start, strides), path)


def _unwrap(call: Call) -> tuple[str, tuple[Any, ...]]:
    """The innermost builder and its arguments: a parameter or a subclass wraps the tensor proper."""
    builder, arguments = str(call.callee), call.arguments
    for _ in range(8):
        if not isinstance(arguments, tuple):
            break
        if builder in PARAMETER_BUILDERS | SUBCLASS_BUILDERS:
            _check_attributes(arguments[3:4])
        if builder in PARAMETER_BUILDERS and arguments and is_tensor(arguments[0]):
            builder, arguments = str(arguments[0].callee), arguments[0].arguments
        elif builder in SUBCLASS_BUILDERS and len(arguments) > 2 and isinstance(arguments[0], Global):
            builder, arguments = str(arguments[0]), arguments[2]
        elif builder in DENSE_BUILDERS or builder in REFUSED_BUILDERS:
            return builder, arguments
        else:
            break
    raise IllFormedError("its description is not one that torch writes")


def _check_attributes(states: tuple[Any, ...]) -> None:
    """Refuse attributes that take the place of a tensor's values (torch/_utils.py, `_set_obj_state`)."""
    for state in states:
        for part in state if isinstance(state, tuple) else (state,):
            if not _VALUE_ATTRIBUTES.isdisjoint(_attributes(part)):
                raise IllFormedError("has attributes that would take the place of its values")


def _attributes(node: Any) -> dict[str, Any]:
    """What is set on one tensor; many tensors may share it, so it must be short."""
    if not isinstance(node, PickledDict):
        return {}
    if len(node.items or ()) > 2 * _MAX_ATTRIBUTES:
        raise IllFormedError(f"has over {_MAX_ATTRIBUTES} attributes")
    return dictionary(node)


def storage_id(node: Any) -> StorageId:
    """Read a persistent id of torch. Raises `IllFormedError`."""
    value = node.value if isinstance(node, PersistentId) else None
    if not isinstance(value, tuple) or len(value) not in (5, 6) or value[0] not in ("storage", b"storage"):
        raise IllFormedError("its storage is not described as torch does")
    kind, key, location, elements = value[1:5]
    dtype = storage_dtype(kind.module, kind.name) if isinstance(kind, Global) else None
    if dtype is None:
        word = printable(str(kind)) if isinstance(kind, Global) else "unknown"
        raise RefusedError("dtype", f"lies in a storage of an unknown type ({word})")
    if not isinstance(key, str) or not isinstance(location, str):
        raise IllFormedError("its storage has no key or no device")
    view = value[5] if len(value) == 6 else None
    if view is not None:
        if not isinstance(view, tuple) or len(view) != 3 or not isinstance(view[0], str):
            raise IllFormedError("its storage view is not described as torch does")
        view = (view[0], _number(view[1]), _number(view[2]))
    return StorageId(dtype, key, location, _number(elements), view)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_SIZE:
        raise IllFormedError("a size, stride or offset is no number from 0 up")
    return value


def _numbers(value: Any) -> tuple[int, ...]:
    if isinstance(value, Call) and str(value.callee) == "torch.Size" and isinstance(value.arguments, tuple):
        value = value.arguments[0] if value.arguments else ()
    if not isinstance(value, (tuple, list)) or len(value) > _MAX_RANK:
        raise IllFormedError("its sizes are not described as torch does")
    return tuple(_number(size) for size in value)


def _dtype_word(value: Any) -> str:
    return value.name if isinstance(value, Global) and value.module == "torch" else ""


def _check_metadata(values: tuple[Any, ...]) -> None:
    """torch marks a conjugated or negated view here: its bytes are not its values."""
    marks = _attributes(values[0]) if values else {}
    for mark in ("conj", "neg"):
        if marks.get(mark) is True:
            raise RefusedError("unsupported", f"is a lazily {mark}-flagged view, whose bytes are not its values")
