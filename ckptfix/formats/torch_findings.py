"""What the reading of a torch file alone can find: foreign objects, unsafe calls, unusual but right ways to store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from ckptfix.errors import UnreadableError, UnsafeError
from ckptfix.findings import Finding
from ckptfix.formats.pickle_globals import classify
from ckptfix.formats.pickle_nodes import COMPUTED, Use
from ckptfix.formats.torch_tensors import Contents
from ckptfix.manifest import Record, TensorInfo, dense_strides
from ckptfix.text import plural, printable, some

_SHOWN = 20
_ALARM = "nothing was run; do not load this file with torch.load(weights_only=False), get it from a source you trust"
_VERBS = {"call": "calls", "make": "makes an instance of", "change": "changes", "name": "names"}


def use_findings(uses: Mapping[Use, int]) -> list[Finding]:
    """One error for each unsafe use of a global, one warning and one note for the foreign ones together."""
    called = {_name(use) for use, _ in _unsafe(uses)}
    foreign = [name for name in _names(use for use in uses if classify(use) == "foreign") if name not in called]
    inert = [name for name in _names(use for use in uses if classify(use) == "inert") if name not in foreign]
    findings = [
        Finding("unsafe", "error", f"the pickle {_deed(use)} at byte {offset:,}, which no checkpoint needs", _ALARM)
        for use, offset in _unsafe(uses)
    ]
    if foreign:
        findings.append(
            Finding(
                "foreign-object",
                "warning",
                f"holds objects that ckptfix does not know, left unread: {some(foreign, 8)}",
                "the tensors are read without them; ckptfix convert writes a file that holds tensors only",
            )
        )
    if inert:
        findings.append(
            Finding("foreign-object", "note", f"holds harmless objects beside its tensors: {some(inert, 8)}")
        )
    return findings


def refuse_if_unsafe(uses: Mapping[Use, int], source: str) -> None:
    """Raise `UnsafeError` for the first unsafe use, where the rest of the pickle cannot be read."""
    for use, offset in _unsafe(uses):
        raise UnsafeError(
            f"the pickle {_deed(use)} at byte {offset:,}, which no checkpoint needs",
            hint=_ALARM,
            source=source,
            **{"global": _name(use)},
        )


@contextmanager
def unsafe_first(uses: Mapping[Use, int], source: str) -> Iterator[None]:
    """Let an unsafe use of a global outrank whatever else is wrong with the file in this block."""
    try:
        yield
    except UnreadableError:
        refuse_if_unsafe(uses, source)
        raise


def _unsafe(uses: Mapping[Use, int]) -> list[tuple[Use, int]]:
    """Unsafe uses and their offsets, at most 20; the many ways to use one global count once."""
    found: dict[tuple[str, str], tuple[Use, int]] = {}
    for use, offset in uses.items():
        if len(found) < _SHOWN and classify(use) == "unsafe":
            found.setdefault(use[:2], (use, offset))
    return list(found.values())


def _name(use: Use) -> str:
    return printable(use[1] if use[1] == COMPUTED else f"{use[0]}.{use[1]}")


def _deed(use: Use) -> str:
    return f"{_VERBS[use[2]]} {_name(use)}"


def _names(uses: Iterable[Use]) -> list[str]:
    return list(dict.fromkeys(_name(use) for use in uses))


def archive_findings(records: Mapping[str, Record], prefix: str, *, checksums: bool) -> list[Finding]:
    """Notes and warnings on the archive itself."""
    findings = []
    wanted = (prefix + "data/", prefix + "data.pkl")  # TorchScript deflates its code, which is nothing to us
    deflated = [name for name, record in records.items() if record.deflated and name.startswith(wanted)]
    if deflated:
        findings.append(
            Finding(
                "compressed",
                "warning",
                f"{plural(len(deflated), 'record')} of the archive are deflated: read right here, "
                "but readers that map the file take the packed bytes for weights",
                "ckptfix convert writes a file that every reader takes",
            )
        )
    if prefix.count("/") != 1:
        where = f"in {printable(prefix)}" if prefix else "at the top of the archive"
        findings.append(
            Finding(
                "archive",
                "warning",
                f"data.pkl lies {where}, not in one top folder: the archive was re-packed and torch.load refuses it",
                "ckptfix convert writes a file that every reader takes",
            )
        )
    if not checksums:
        findings.append(
            Finding("checksums-off", "note", "its writer switched checksums off, so damaged data cannot be told")
        )
    return findings


def content_findings(contents: Contents, byteorder: Literal["little", "big"]) -> list[Finding]:
    """Errors for tensors that have no plain values, notes for unusual ways to store that lose nothing."""
    findings = []
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, refusal in contents.refused.items():
        by_reason.setdefault(refusal, []).append(name)
    for (code, reason), names in by_reason.items():
        findings.append(
            Finding(
                code,
                "error",
                f"{some(names)}: {reason}; left out",
                "save it as a plain dense tensor where the file was made",
                tuple(names),
            )
        )
    if byteorder == "big":
        findings.append(Finding("big-endian", "note", "its numbers are stored big-endian"))
    devices = sorted(place for place in contents.locations if place != "cpu")
    if devices:
        findings.append(Finding("device", "note", f"its tensors were saved from {some(devices)}"))
    return findings + storage_findings(contents.tensors)


def storage_findings(tensors: Mapping[str, TensorInfo]) -> list[Finding]:
    """Notes on dtypes and on tensors that are no dense run of their own."""
    kinds: dict[tuple[str, str], list[str]] = {}
    owners: dict[str, list[TensorInfo]] = {}
    for name, tensor in tensors.items():
        if tensor.dtype.name == "F64":
            kinds.setdefault(("fp64", "stored as float64"), []).append(name)
        elif tensor.dtype.name.startswith("F8"):
            kinds.setdefault(("fp8", "stored as float8"), []).append(name)
        if tensor.elements and any(
            stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.span.strides, strict=True)
        ):
            kinds.setdefault(("expanded", "stored once and repeated by a stride of 0"), []).append(name)
        elif not _is_dense(tensor):
            kinds.setdefault(("views", "stored as strided views"), []).append(name)
        owners.setdefault(tensor.span.record, []).append(tensor)
    for sharing in owners.values():
        tied = _tied(sharing)
        if tied:
            kinds.setdefault(("tied", "sharing the bytes of another tensor"), []).extend(tied)
    return [
        Finding(code, "note", f"{plural(len(names), 'tensor')} {what}: {some(names)}", tensors=tuple(names))
        for (code, what), names in kinds.items()
    ]


def _is_dense(tensor: TensorInfo) -> bool:
    dense = dense_strides(tensor.shape)
    return tensor.elements == 0 or all(
        size == 1 or stride == wanted
        for size, stride, wanted in zip(tensor.shape, tensor.span.strides, dense, strict=True)
    )


def _tied(tensors: list[TensorInfo]) -> list[str]:
    """Names of the tensors that overlap an earlier one of the same record."""
    if len(tensors) < 2:
        return []
    ordered = sorted((tensor for tensor in tensors if tensor.elements), key=lambda tensor: tensor.span.offset)
    tied, end = [], 0
    for tensor in ordered:
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.span.strides, strict=True)) + 1
        if tensor.span.offset < end:
            tied.append(tensor.name)
        end = max(end, tensor.span.offset + reach * tensor.dtype.itemsize)
    return tied
