"""Bounded inflation of deflate and gzip streams: never more memory than a chunk, never more output than the budget."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ckptfix.errors import DamagedError
from ckptfix.formats.bytesource import ByteSource, read_at
from ckptfix.formats.limits import Limits, limit_error

RAW_DEFLATE = -15
GZIP = 31
_INPUT = 1 << 18
_OUTPUT = 1 << 20


def inflate(
    source: ByteSource,
    position: int,
    stored_size: int,
    limits: Limits,
    *,
    what: str,
    wbits: int = RAW_DEFLATE,
    size: int | None = None,
) -> Iterator[bytes]:
    """The inflated bytes of a stored run, in parts of at most 1 MiB; `what` names the run in messages.

    `size` is how many bytes must come out; None takes what comes.
    Several gzip members after each other are one stream, as gzip itself reads them.
    Raises `DamagedError` where the stream is broken or ends early, `UnsafeError` where it goes over a budget.
    """
    feed = _Feed(source, position, stored_size)
    stream = zlib.decompressobj(wbits)
    produced = 0
    pending = b""
    more_inside = False
    while True:
        if not pending and not more_inside:
            pending = feed.next()
            if not pending:
                raise _broken(source, what, "ends early", "truncated")
        try:
            part = stream.decompress(pending, _OUTPUT)
        except zlib.error as error:
            raise _broken(source, what, "is damaged") from error
        produced += len(part)
        check_inflated(produced, feed.consumed, limits, what)
        if size is not None and (produced > size or (stream.eof and produced < size)):
            raise _broken(source, what, f"does not unpack to the {size:,} bytes it declares")
        if part:
            yield part
        if not stream.eof:
            pending = stream.unconsumed_tail
            more_inside = len(part) == _OUTPUT  # output that did not fit waits inside the stream
            continue
        pending, more_inside = stream.unused_data, False
        if len(pending) < 2:
            pending += feed.next()
        if wbits != GZIP or not pending.startswith(b"\x1f\x8b"):
            return
        stream = zlib.decompressobj(wbits)


class _Feed:
    """The stored bytes of a run, part after part; `consumed` counts what was given out."""

    def __init__(self, source: ByteSource, position: int, size: int) -> None:
        self._source = source
        self._position = position
        self._size = size
        self.consumed = 0

    def next(self) -> bytes:
        """The next part, empty at the end."""
        part = read_at(self._source, self._position + self.consumed, min(_INPUT, self._size - self.consumed))
        self.consumed += len(part)
        return part


def check_inflated(produced: int, stored: int, limits: Limits, what: str) -> None:
    """Refuse `produced` bytes (seen or declared) out of `stored` ones when that goes over a budget."""
    if produced > limits.inflated_bytes:
        raise limit_error("inflated_bytes", f"{what} unpacks to over {limits.inflated_bytes:,} bytes")
    ratio = limits.inflated_large_ratio if produced > limits.inflated_large else limits.inflated_ratio
    if produced > max(limits.inflated_floor, ratio * stored):
        raise limit_error("inflated_ratio", f"{what} unpacks to over {ratio} times its {stored:,} stored bytes")


class BrokenStreamError(DamagedError):
    """A compressed stream that does not give what it should; `problem` says so without naming it."""

    problem = ""


def _broken(source: ByteSource, what: str, problem: str, code: str = "checksum") -> BrokenStreamError:
    message = f"{what}: the compressed data {problem}"
    error = BrokenStreamError(message, hint="get the file again", code=code, source=source.name)
    error.problem = f"has compressed data that {problem}"
    return error
