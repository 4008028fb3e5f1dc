"""How a conversion gets files that lie on the net: as one stream, hashed on the way, where nearly all is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from ckptfix.errors import DamagedError, UsageError
from ckptfix.findings import Finding
from ckptfix.manifest import Manifest
from ckptfix.parts import WholeCheckpoint
from ckptfix.plan import Step
from ckptfix.tensors.views import View
from ckptfix.text import printable

if TYPE_CHECKING:
    from ckptfix.formats.output import OutputTensor

_NEARLY_ALL: Final = 0.9  # of a file; below, the ranges that are needed cost less than the whole


class Transfer:
    """The files on the net behind one conversion.

    A server without ranges sends the whole file anyhow, so that makes a stream too. A pickle is written in the order of
    its own tensors, which reads the source to and fro: by ranges, and without a digest.
    """

    def __init__(self, checkpoint: WholeCheckpoint, steps: Sequence[Step], *, pickled: bool) -> None:
        self._files = checkpoint.distant
        self._manifest = checkpoint.manifest
        self._steps = steps
        self._pickled = pickled
        names = {name for step in steps for name in step.inputs}
        self._needed = sum(checkpoint.manifest.tensors[name].nbytes for name in names)
        self._size = sum(file.size for file in self._files)
        self.is_stream = False
        nearly_all = self._needed >= _NEARLY_ALL * self._size or any(file.whole_only for file in self._files)
        if self._files and nearly_all and not pickled:
            self._stream()

    def _stream(self) -> None:
        self.is_stream = True
        for file in self._files:
            file.stream()

    def require_digests(self, count: int) -> None:
        """A digest of each of the `count` files is asked for. UsageError where one is not read as it lies there."""
        if self._pickled or len(self._files) < count:
            raise UsageError(
                "--proof hashes the whole source, and from the net this one is not read from its beginning to its end",
                hint="download the file first, or leave --proof out",
            )
        if not self.is_stream:
            self._stream()

    def in_order(self, tensors: Sequence[OutputTensor]) -> list[OutputTensor]:
        """What the steps write, in the order in which its bytes lie in the source."""
        views = [view for step in self._steps for view in step.views]
        pairs = zip(views, tensors, strict=True)
        return [tensor for _, tensor in sorted(pairs, key=lambda pair: _position(self._manifest, pair[0]))]

    def sha256(self) -> list[str]:
        """Hex digests of the files, in order; what is left of them is read."""
        return [file.sha256() for file in self._files]

    def approve(self) -> None:
        """DamagedError for a file that is another than the one whose sha256 the hub states."""
        for file in self._files if self.is_stream else ():
            if file.stated and file.sha256() != file.stated:
                raise DamagedError(
                    f"what came has the sha256 {file.sha256()}, and the hub states {file.stated}",
                    hint="run it again; if it stays so, tell the owner of the repository; nothing was kept",
                    code="checksum",
                    source=file.name,
                )

    def findings(self) -> list[Finding]:
        """Notes on what the hub states, for files where it states anything."""
        notes = []
        for file in self._files:
            name = printable(PurePosixPath(file.name).name)
            if file.stated and self.is_stream:
                notes.append(Finding("sha256", "note", f"{name} has the sha256 that the hub states: {file.stated}"))
            elif file.stated:
                why = f"only {self._needed:,} of its {self._size:,} bytes are needed, or they are needed out of order"
                told = f"the sha256 that the hub states of {name} was not checked: {why}"
                notes.append(Finding("sha256", "note", told))
        return notes


def _position(manifest: Manifest, view: View) -> int:
    spans = (part.tensor.span for part in view.parts)
    return min((manifest.records[span.record].position + span.offset for span in spans), default=0)
