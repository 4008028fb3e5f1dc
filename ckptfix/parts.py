"""Several files that are parts of one adapter, read as one checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ckptfix.errors import UsageError
from ckptfix.formats import Checkpoint
from ckptfix.manifest import Manifest


class JoinedCheckpoint:
    """The parts behind one manifest; a record's name begins with the number of the part that holds it.

    The caller opens and closes the parts.
    """

    def __init__(self, parts: Sequence[Checkpoint]) -> None:
        self._parts = parts
        self.manifest = _joined([part.manifest for part in parts])

    def read(self, record: str, offset: int, size: int) -> bytes:
        part, name = self._find(record)
        return part.read(name, offset, size)

    def chunks(self, record: str, offset: int, size: int) -> Iterator[memoryview]:
        part, name = self._find(record)
        return part.chunks(name, offset, size)

    def check(self, record: str) -> None:
        part, name = self._find(record)
        part.check(name)

    def _find(self, record: str) -> tuple[Checkpoint, str]:
        number, _, name = record.partition("/")
        return self._parts[int(number)], name


def join(parts: Sequence[Checkpoint]) -> Checkpoint | JoinedCheckpoint:
    """One checkpoint as it is; several as one, with the parts' own names in `Manifest.parts`."""
    return parts[0] if len(parts) == 1 else JoinedCheckpoint(parts)


def _joined(manifests: Sequence[Manifest]) -> Manifest:
    if len({manifest.byteorder for manifest in manifests}) > 1:
        raise UsageError("one part is big-endian, another little-endian", hint="convert each part alone first")
    names = Counter(name for manifest in manifests for name in manifest.tensors)
    parts = []
    for number, manifest in enumerate(manifests):
        own = {}
        for name, tensor in manifest.tensors.items():
            # never a path: labels go into proofs, and proofs travel
            label = name if names[name] == 1 else f"part {number + 1}:{name}"
            own[name] = replace(tensor, name=label, span=replace(tensor.span, record=f"{number}/{tensor.span.record}"))
        records = {f"{number}/{name}": record for name, record in manifest.records.items()}
        parts.append(replace(manifest, tensors=own, records=records))
    return Manifest(
        source=" ".join(manifest.source for manifest in manifests),
        container=manifests[0].container,
        size=sum(manifest.size for manifest in manifests),
        tensors={tensor.name: tensor for part in parts for tensor in part.tensors.values()},
        records={name: record for part in parts for name, record in part.records.items()},
        byteorder=manifests[0].byteorder,
        findings=tuple(finding for manifest in manifests for finding in manifest.findings),
        parts=tuple(parts),
    )
