"""A file on the net as a `ByteSource`: its index costs a few small requests, its tensors one request each."""

from __future__ import annotations

import hashlib
import http.client
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from ckptfix.findings import Finding
from ckptfix.formats.address import address_of
from ckptfix.formats.bytesource import check_within
from ckptfix.formats.ranges import Ranges, Sleep

if TYPE_CHECKING:
    from hashlib import _Hash

# An index lies at a file's head (data.pkl, the header of safetensors) or tail (a zip's directory): 64 KiB hold both of
# an adapter of 200 tensors, and 16 KiB whatever is asked for between.
_EDGE: Final = 32 << 10
_AHEAD: Final = 16 << 10
_BLOCKS: Final = 64  # blocks kept
_BEHIND: Final = 64 << 20  # bytes that a stream keeps of what it went past
_SMALL: Final = 64
_PIECE: Final = 1 << 20
_TRICKLES: Final = "sends next to nothing"
_SKIPPED: Final = 64 << 10  # bytes that are cheaper to read past than to ask anew


def open_remote(name: str, *, sleep: Sleep = time.sleep) -> RemoteFile:
    """Open a file by its address; `sleep` waits between tries.

    Raises `UsageError` (no such file, bad address), `UnavailableError` (no access, no network, offline, no ranges),
    `UnreadableError` (a web page).
    """
    address = address_of(name)
    return RemoteFile(address.shown, Ranges(address, sleep), address.findings)


class RemoteFile:
    """Reads by range, keeps small blocks, and goes on with an open answer while it is read forwards.

    A cut connection is taken up where it broke. `DamagedError` if the file changes on its server.
    `stated` is the sha256 that the hub names for it, "" where none is named.
    """

    remote = True

    def __init__(self, name: str, ranges: Ranges, findings: tuple[Finding, ...] = ()) -> None:
        self.name = name
        self.findings = findings
        self._ranges = ranges
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._expected = (0, 0)
        self._answer: http.client.HTTPResponse | None = None
        self._at = self._stop = 0  # where the open answer stands, and where it ends
        self._passed = (0, bytearray())  # what a stream went past last, and where that lies
        self._digest: _Hash | None = None  # of the bytes before self._at, if the file is read as one stream
        self._keep(0, _EDGE)
        self.size = ranges.size

    @property
    def stated(self) -> str:
        return self._ranges.stated.sha256 if self._ranges.stated else ""

    @property
    def whole_only(self) -> bool:
        """Whether its server knows no ranges."""
        return self._ranges.whole_only

    def expect(self, offset: int, size: int) -> None:
        self._expected = (offset, min(offset + size, self.size))

    def stream(self) -> None:
        """From now on get the file as one answer, from its beginning, and hash it: for whoever reads nearly all of it
        and forwards. What lies behind is read by ranges as before."""
        self.close()
        self._digest = hashlib.sha256()
        self._at = 0

    def sha256(self) -> str:
        """The digest (hex) of a file that is read as a stream, for which the rest of it is read."""
        if self._digest is None:
            raise AssertionError("not read as a stream")
        self._passed = (0, bytearray())
        while self._at < self.size:
            self._forward(memoryview(bytearray(min(self.size - self._at, _PIECE))))
        return self._digest.hexdigest()

    def read_into(self, offset: int, target: memoryview) -> None:
        check_within(self, offset, len(target))
        done = 0
        while done < len(target):
            done += self._some(offset + done, target[done:])

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _some(self, position: int, target: memoryview) -> int:
        """Fill the beginning of `target`, from a block, the open answer or a new one; returns how many bytes."""
        for start, block in self._blocks.items():
            if start <= position < start + len(block):
                part = block[position - start :][: len(target)]
                target[: len(part)] = part
                self._blocks.move_to_end(start)
                return len(part)
        start, passed = self._passed
        if start <= position < start + len(passed):
            kept = memoryview(passed)[position - start :][: len(target)]
            target[: len(kept)] = kept
            return len(kept)
        if self._digest is not None and position < self._at:
            part = self._fetch(position, position + min(len(target), _PIECE))
            target[: len(part)] = part
            return len(part)
        if self._digest is None and not self._goes_on(position):
            start, stop = self._expected
            wanted = max(position + len(target), stop if start <= position < stop else 0)
            tail = max(0, self.size - _EDGE)
            if wanted - position <= _AHEAD and not self._ranges.whole_only:
                self._keep(*((tail, self.size) if position >= tail else (position, position + _AHEAD)))
                return 0
            self._open(position, wanted)
        self._pass(position)
        count = self._forward(target)
        start, passed = self._passed
        if self._digest is not None and start + len(passed) == position and count <= _SMALL:
            passed += target[:count]  # such a reader asks for too much of it
        return count

    def _goes_on(self, position: int) -> bool:
        """Whether the open answer leads to `position` at no great cost."""
        cheap = _PIECE if self._ranges.whole_only else _SKIPPED
        return self._answer is not None and self._at <= position < min(self._stop, self._at + cheap)

    def _keep(self, start: int, stop: int) -> None:
        """Keep one small block, by a request of its own: an open answer stays where it is."""
        self._blocks[start] = self._fetch(start, stop)
        if len(self._blocks) > _BLOCKS:
            self._blocks.popitem(last=False)

    def _fetch(self, start: int, stop: int) -> bytes:
        """The bytes of one range, by a request of its own; fewer where the file ends."""
        data = b""
        while True:
            if self._ranges.whole_only and start:
                raise self._ranges.no_ranges()
            answer = self._ranges.open(start + len(data), stop)
            if answer is None:
                return b""
            if self._ranges.whole_only:
                data = b""  # it begins anew
            stop = min(stop, self._ranges.size)
            with answer:
                problem = "cuts the connection"
                cause: Exception = http.client.IncompleteRead(b"")
                try:
                    began = time.monotonic()
                    while piece := answer.read1(stop - start - len(data)):
                        data += piece
                        if not self._ranges.received(len(piece), time.monotonic() - began):
                            problem = _TRICKLES
                            break
                        began = time.monotonic()
                except (OSError, http.client.HTTPException) as error:
                    cause = error
            if len(data) == stop - start:
                self._ranges.finished()
                return data
            self._ranges.failed(problem, cause)

    def _open(self, start: int, stop: int) -> None:
        """One answer for all from `start` on, or the whole file from a server without ranges, which is not sent twice
        for somebody who goes back in it."""
        self.close()
        if self._ranges.whole_only:
            if not 0 <= start - self._at <= _PIECE:
                raise self._ranges.no_ranges()
            stop = self.size
        self._answer = self._ranges.open(start, stop)
        self._at, self._stop = start, stop
        if self._ranges.whole_only and self._answer is not None:
            passed = 0
            while passed < start and (piece := self._answer.read(min(start - passed, _PIECE))):
                passed += len(piece)

    def _pass(self, position: int) -> None:
        """Read on to `position`. What lies between is kept if it is not too much: a zip's reader looks at what stands
        behind a record before it reads the record, which of a stream would cost another request."""
        start, gap = self._at, position - self._at
        passed = bytearray(gap if self._digest is not None and gap <= _BEHIND else min(gap, _PIECE))
        while (done := self._at - start) < gap:
            at = done if len(passed) == gap else 0
            self._forward(memoryview(passed)[at : at + min(gap - done, len(passed))])
        if gap and len(passed) == gap:
            self._passed = (start, passed)
        elif gap or self._passed[0] + len(self._passed[1]) != position:
            self._passed = (position, bytearray())

    def _forward(self, target: memoryview) -> int:
        """Read on in the open answer and return how many bytes came: none where it broke, and a new one is open."""
        if self._answer is None:
            self._open(self._at, self.size)
        target = target[: self._stop - self._at]
        problem = "cuts the connection"
        cause: Exception = http.client.IncompleteRead(b"")
        began = time.monotonic()
        try:
            count = self._answer.readinto(target) if self._answer is not None else 0
        except (OSError, http.client.HTTPException) as error:
            count, cause = 0, error
        self._at += count
        if self._digest is not None:
            self._digest.update(target[:count])
        if count and not self._ranges.received(count, time.monotonic() - began):
            problem, broken = _TRICKLES, True
        else:
            broken = count == 0
        if self._at >= self._stop:
            self.close()
        elif broken:
            self._ranges.failed(problem, cause)
            self._open(self._at, self._stop)
        return count
