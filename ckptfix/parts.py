"""Several files that are parts of one adapter, or shards of one checkpoint, read as one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ckptfix.errors import UsageError
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.formats.address import Location, location, shown
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.manifest import Manifest
from ckptfix.shards import are_one_set, shards_behind

if TYPE_CHECKING:
    from ckptfix.formats.remote import RemoteFile

WholeCheckpoint: TypeAlias = "Checkpoint | JoinedCheckpoint"


class JoinedCheckpoint:
    """The parts behind one manifest; a record's name begins with the number of the part that holds it.

    The caller opens and closes the parts.
    """

    def __init__(self, parts: Sequence[WholeCheckpoint], *, shards_of: str = "") -> None:
        """`shards_of` names the whole that these are shards of; without it they are parts with layouts of their own."""
        self._parts = parts
        self.manifest: Manifest = _joined([part.manifest for part in parts], shards_of)

    @property
    def distant(self) -> tuple[RemoteFile, ...]:
        return tuple(file for part in self._parts for file in part.distant)

    def read(self, record: str, offset: int, size: int) -> bytes:
        part, name = self._find(record)
        return part.read(name, offset, size)

    def chunks(self, record: str, offset: int, size: int) -> Iterator[memoryview]:
        part, name = self._find(record)
        return part.chunks(name, offset, size)

    def check(self, record: str) -> None:
        part, name = self._find(record)
        part.check(name)

    def _find(self, record: str) -> tuple[WholeCheckpoint, str]:
        number, _, name = record.partition("/")
        return self._parts[int(number)], name


@contextmanager
def open_whole(
    paths: Sequence[str | os.PathLike[str]], *, limits: Limits = DEFAULT_LIMITS, partial: bool = False
) -> Iterator[WholeCheckpoint]:
    """One checkpoint as it is; shards, listed by an index or by their own names, as the checkpoint that they are; other
    files as parts of one adapter, each read in its own layout (`Manifest.parts`).

    Raises what `open_checkpoint` does, and UnreadableError for an index without its files.
    """
    files = [location(path) for path in paths]
    one_set = are_one_set(files)
    groups = [tuple(files)] if one_set else [shards_behind(path) for path in files]
    names = [" ".join(map(shown, files))] if one_set else [shown(path) for path in files]
    with ExitStack() as opened:

        def read(path: Location) -> Checkpoint:
            return opened.enter_context(open_checkpoint(path, limits=limits, partial=partial))

        wholes: list[WholeCheckpoint] = [
            read(group[0]) if len(group) == 1 else JoinedCheckpoint([read(path) for path in group], shards_of=named)
            for named, group in zip(names, groups, strict=True)
        ]
        yield wholes[0] if len(wholes) == 1 else JoinedCheckpoint(wholes)


def _joined(manifests: Sequence[Manifest], shards_of: str) -> Manifest:
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
        source=shards_of or " ".join(manifest.source for manifest in manifests),
        container=manifests[0].container,
        size=sum(manifest.size for manifest in manifests),
        tensors={tensor.name: tensor for part in parts for tensor in part.tensors.values()},
        records={name: record for part in parts for name, record in part.records.items()},
        byteorder=manifests[0].byteorder,
        findings=tuple(finding for manifest in manifests for finding in manifest.findings),
        metadata=manifests[0].metadata if shards_of else {},
        parts=() if shards_of else tuple(parts),
        file_sizes=tuple(size for manifest in manifests for size in manifest.file_sizes),
    )
