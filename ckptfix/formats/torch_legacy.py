"""The container of torch.save before 1.6: five pickles after each other, then the storages.

Magic number, protocol version, system facts, the object, the keys of the storages in order; then for each key a count
of elements (8 bytes, little-endian) and that many raw elements. Numbers are little-endian whatever the machine.
Source: pytorch, torch/serialization.py (_legacy_save, _legacy_load), torch/csrc/serialization.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptfix.errors import UnreadableError
from ckptfix.findings import Finding
from ckptfix.formats.bytesource import ByteSource, LocalFile, read_at, read_some
from ckptfix.formats.cut import report_cut
from ckptfix.formats.limits import Limits, limit_error
from ckptfix.formats.pickle_nodes import Pickled, PickleError, Use
from ckptfix.formats.pickle_reader import read_pickle
from ckptfix.formats.torch_findings import content_findings, refuse_if_unsafe, unsafe_first, use_findings
from ckptfix.formats.torch_tensors import (
    IllFormedError,
    RefusedError,
    Storage,
    StorageId,
    collect_tensors,
    storage_id,
)
from ckptfix.manifest import DTYPE_OF_TORCH, Manifest, Record
from ckptfix.text import plural, printable

_PROTOCOL: Final = 1001
_FIRST_READ: Final = 1 << 20
_LOCAL_READ: Final = 4 << 20  # takes a millisecond, and reading a pickle twice takes more
_PREAMBLE_OPCODES: Final = 1_000
# Element sizes of the types that ckptfix refuses but must step over.
_OTHER_ITEMSIZES: Final = {"complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1}


def read_torch_legacy(source: ByteSource, limits: Limits, *, partial: bool = False) -> Manifest:
    """The manifest of a legacy file; with `partial` a cut file gives the tensors that are whole.

    Raises `UnreadableError` for a damaged or cut file, `UnsafeError`.
    """
    pickles = _read_pickles(source, limits)
    uses: dict[Use, int] = {}
    for pickled in pickles:
        uses.update({use: offset for use, offset in pickled.uses.items() if use not in uses})
    with unsafe_first(uses, source.name):
        return _manifest(source, pickles, uses, limits, partial=partial)


def _manifest(
    source: ByteSource, pickles: Sequence[Pickled], uses: Mapping[Use, int], limits: Limits, *, partial: bool
) -> Manifest:
    _, protocol, _, content, keys = pickles
    if protocol.root != _PROTOCOL:
        raise _bad(source, "names another protocol version than 1001")
    storages = _Storages(source, content, keys)
    contents = collect_tensors(content.root, storages.locate, source.size, limits, source.name)
    findings = [Finding("legacy", "note", "in the container of torch before 1.6 (2020)", "ckptfix convert re-saves it")]
    if storages.missing:
        missing = f"{plural(storages.missing, 'byte')} missing at its end"
        findings.append(report_cut(source.name, missing, len(contents.tensors), contents.absent, partial=partial))
    findings += use_findings(uses) + content_findings(contents, "little")
    return Manifest(
        source.name,
        "torch-legacy",
        source.size,
        contents.tensors,
        storages.records,
        objects=contents.objects,
        findings=tuple(findings),
    )


def _bad(source: ByteSource, problem: str) -> UnreadableError:
    return UnreadableError(
        f"the legacy torch file {problem}",
        hint="get the file again; it is damaged",
        code="pickle",
        source=source.name,
    )


def _read_pickles(source: ByteSource, limits: Limits) -> list[Pickled]:
    """The five pickles. Reads a first part of the file, and more only while a pickle reaches past it."""
    amount = min(_LOCAL_READ if isinstance(source, LocalFile) else _FIRST_READ, limits.pickle_bytes)
    pickles: list[Pickled] = []
    while True:
        data = read_some(source, 0, amount)
        try:
            while len(pickles) < 5:
                budget = limits if len(pickles) > 2 else replace(limits, opcodes=_PREAMBLE_OPCODES)
                pickles.append(read_pickle(data, pickles[-1].end if pickles else 0, limits=budget))
            return pickles
        except PickleError as error:
            if not error.truncated or len(data) == source.size:
                for pickled in pickles:
                    refuse_if_unsafe(pickled.uses, source.name)
                refuse_if_unsafe(error.uses, source.name)
                if error.truncated:
                    raise UnreadableError(
                        "is cut inside its index: the names of the tensors and all their data are missing",
                        hint="get the file again; nothing can be recovered",
                        code="truncated",
                        source=source.name,
                    ) from error
                raise _bad(source, f"cannot be read: {error}") from error
        if amount >= limits.pickle_bytes:
            raise limit_error("pickle_bytes", f"the index takes over {limits.pickle_bytes:,} bytes")
        amount = min(amount * 4, limits.pickle_bytes)


@dataclass(frozen=True, slots=True)
class _Declared:
    elements: int
    itemsize: int


class _Storages:
    """Where each storage lies. `missing` counts the bytes that a cut file lacks."""

    def __init__(self, source: ByteSource, content: Pickled, keys: Pickled) -> None:
        self.records: dict[str, Record] = {}
        self.missing = 0
        self._source = source
        self._listed: set[str] = set()
        self._declared = self._declarations(content)
        self._place(keys.root, keys.end)

    def locate(self, storage: StorageId) -> Storage | None:
        """Find a storage for `collect_tensors`; None where the file is cut before its end."""
        if storage.key not in self._listed:
            raise IllFormedError("its storage is not in the file's list of storages")
        record = self.records.get(storage.key)
        if record is None:
            return None
        if storage.view is None:
            return Storage(record.name, 0, record.size)
        itemsize = self._declared[storage.key].itemsize
        _, start, length = storage.view
        if (start + length) * itemsize > record.size:
            raise IllFormedError("it views a part outside its storage")
        return Storage(record.name, start * itemsize, length * itemsize)

    def _declarations(self, content: Pickled) -> dict[str, _Declared]:
        declared: dict[str, _Declared] = {}
        for persistent in content.persistent:
            try:
                storage = storage_id(persistent)
            except (IllFormedError, RefusedError) as error:
                raise _bad(self._source, f"has a storage it does not describe rightly: {error}") from error
            known = DTYPE_OF_TORCH.get(storage.dtype)
            itemsize = known.itemsize if known else _OTHER_ITEMSIZES.get(storage.dtype, 1)
            before = declared.setdefault(storage.key, _Declared(storage.elements, itemsize))
            if before.elements * before.itemsize != storage.elements * itemsize:
                raise _bad(self._source, f"declares storage {printable(storage.key)} with two sizes")
        return declared

    def _place(self, keys: Any, position: int) -> None:
        """Step from storage to storage; every size is checked against the file before it is believed."""
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise _bad(self._source, "has no list of its storages")
        size = self._source.size
        for key in keys:
            declared = self._declared.get(key)
            if declared is None or key in self._listed:
                problem = "twice" if declared else "that no tensor uses"
                raise _bad(self._source, f"lists a storage {problem}: {printable(key)}")
            self._listed.add(key)
            nbytes = declared.elements * declared.itemsize
            start = position + 8
            position = start + nbytes
            if start > size:
                continue
            count = int.from_bytes(read_at(self._source, start - 8, 8), "little")
            if count != declared.elements:
                raise _bad(
                    self._source,
                    f"stores {plural(count, 'element')} for storage {printable(key)}, which should have "
                    f"{declared.elements:,}",
                )
            if position <= size:
                self.records[key] = Record(key, start, nbytes, nbytes)
        self.missing = max(0, position - size)
