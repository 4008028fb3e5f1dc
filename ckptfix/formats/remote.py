"""A file on the net as a `ByteSource`: its index costs a few small requests, its tensors one request each."""

from __future__ import annotations

import http.client
import time
from collections import OrderedDict
from typing import Final

from ckptfix.errors import DamagedError
from ckptfix.findings import Finding
from ckptfix.formats.address import address_of
from ckptfix.formats.ranges import Ranges, Sleep

# An index lies at a file's head (data.pkl, the header of safetensors) or tail (a zip's directory): 64 KiB hold both of
# an adapter of 200 tensors, and 16 KiB whatever is asked for between.
_EDGE: Final = 32 << 10
_AHEAD: Final = 16 << 10
_BLOCKS: Final = 64  # blocks kept
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
        self._load(0, _EDGE)
        self.size = ranges.size

    def expect(self, offset: int, size: int) -> None:
        self._expected = (offset, min(offset + size, self.size))

    def read_into(self, offset: int, target: memoryview) -> None:
        if offset + len(target) > self.size:
            raise DamagedError(
                f"a read at byte {offset:,} goes past the end",
                hint="get the file again",
                code="truncated",
                source=self.name,
            )
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
        if self._answer is None or not self._at <= position < min(self._stop, self._at + _SKIPPED):
            start, stop = self._expected
            wanted = max(position + len(target), stop if start <= position < stop else 0)
            tail = max(0, self.size - _EDGE)
            if wanted - position <= _AHEAD:
                self._load(*((tail, self.size) if position >= tail else (position, position + _AHEAD)))
                return 0
            self._open(position, wanted)
        while self._at < position:
            self._forward(memoryview(bytearray(position - self._at)))
        return self._forward(target[: self._stop - position])

    def _load(self, start: int, stop: int) -> None:
        """Keep one small block, by a request of its own: an open answer stays where it is."""
        data = b""
        while True:
            answer = self._ranges.open(start + len(data), stop)
            if answer is None:
                return
            stop = min(stop, self._ranges.size)
            with answer:
                try:
                    while piece := answer.read1(stop - start - len(data)):
                        data += piece
                        self._ranges.received()
                    problem: Exception = http.client.IncompleteRead(data, stop - start - len(data))
                except (OSError, http.client.HTTPException) as error:
                    problem = error
            if len(data) == stop - start:
                break
            self._ranges.failed("cuts the connection", problem)
        self._blocks[start] = data
        if len(self._blocks) > _BLOCKS:
            self._blocks.popitem(last=False)

    def _open(self, start: int, stop: int) -> None:
        self.close()
        self._answer = self._ranges.open(start, stop)
        self._at, self._stop = start, stop

    def _forward(self, target: memoryview) -> int:
        """Read on in the open answer and return how many bytes came: none where it broke, and a new one is open."""
        problem: Exception = http.client.IncompleteRead(b"")
        try:
            count = self._answer.readinto(target) if self._answer is not None else 0
        except (OSError, http.client.HTTPException) as error:
            count, problem = 0, error
        if count == 0:
            self._ranges.failed("cuts the connection", problem)
            self._open(self._at, self._stop)
            return 0
        self._ranges.received()
        self._at += count
        if self._at >= self._stop:
            self.close()
        return count
