"""Ranges of a file on the net: one request each, repeated with patience where the server or the line fails.

The standard library does it: redirects and the proxies of the environment are its own, and no dependency is added.
Source of the rules: RFC 9110, sections 10.2.3 (Retry-After), 14 (ranges), 15.5.17 (416).
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import IO, Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from ckptfix.errors import CkptfixError, DamagedError, UnavailableError, UnreadableError, UsageError
from ckptfix.formats.address import Address, check_server, origin
from ckptfix.text import printable

Sleep = Callable[[float], object]

_TIMEOUT: Final = 30.0  # seconds without a byte
_PATIENCE: Final = 60.0  # seconds for
_LITTLE: Final = 64 << 10  # bytes: what comes slower is no transfer
_TRIES: Final = 5  # failures in a row, without as many bytes between them
_PAUSE: Final = 0.5  # seconds, doubled after each failure
_LONGEST_PAUSE: Final = 60.0
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_EXPIRED: Final = frozenset({401, 403, 404, 410})  # what an address answers whose signature is over
_DOWNLOAD: Final = "download the file first, then give its path"


@dataclass(frozen=True, slots=True)
class Stated:
    """What the hub says of a file in its large file storage: sha256 (hex) and size in bytes."""

    sha256: str
    size: int


class Ranges:
    """The one file behind an address. `size` is known after the first `open`, and pinned with the server's validators:
    bytes of two versions are never mixed. Where the address led on to another is remembered, and asked directly as
    long as that one answers. `stated` is what the hub says of the file."""

    def __init__(self, address: Address, sleep: Sleep = time.sleep) -> None:
        self.stated: Stated | None = None
        self.whole_only = False
        self._address = address
        self._target = address.url
        self._sleep = sleep
        self._failures = 0
        self._bytes = 0  # since the patience last started afresh
        self._waited = 0.0  # seconds, likewise
        self._version: tuple[int, str, str] | None = None
        proxies = ProxyHandler({}) if address.loopback else ProxyHandler()
        self._opener = build_opener(proxies, _Redirects(address, self._note))

    @property
    def size(self) -> int:
        return self._version[0] if self._version else 0

    def open(self, start: int, stop: int) -> http.client.HTTPResponse | None:
        """The bytes from `start` up to `stop`, or to the end of the file; None where the file is empty.

        From a server that knows no ranges (`whole_only`) it is the whole file, from its first byte.
        """
        while True:
            try:
                return self._ask(start, stop)
            except HTTPError as error:
                with error:
                    if (
                        error.code == 416
                        and not self._version
                        and re.fullmatch(r"bytes \*/0", error.headers.get("Content-Range", ""))
                    ):
                        return None
                    if error.code in _EXPIRED and self._target != self._address.url:
                        self._target = self._address.url
                        continue
                    if error.code not in _TRANSIENT:
                        raise self._refusal(error.code) from error
                    self.failed(f"answers {error.code}", error, error.headers)
            except (OSError, http.client.HTTPException) as error:
                self.failed(_described(error), error)

    def received(self, count: int, seconds: float) -> bool:
        """Note bytes that came after so long; whether it makes sense to read on, or the server only trickles."""
        self._bytes += count
        self._waited += seconds
        trickles = self._waited > _PATIENCE and self._bytes < _LITTLE
        if self._bytes >= _LITTLE:
            self.finished()
        elif trickles:
            self._bytes, self._waited = 0, 0.0
        return not trickles

    def finished(self) -> None:
        """All or much of what was asked for came: the patience starts afresh."""
        self._failures, self._bytes, self._waited = 0, 0, 0.0

    def failed(self, problem: str, error: Exception, headers: Message | None = None) -> None:
        """Wait before the next try; `UnavailableError` where another one is of no use."""
        self._failures += 1
        pause = _asked_pause(headers) if headers is not None else None
        reason = error.reason if isinstance(error, URLError) else error
        hopeless = isinstance(reason, (ssl.SSLCertVerificationError, socket.gaierror, ConnectionRefusedError))
        if self._failures >= _TRIES or hopeless or (pause or 0) > _LONGEST_PAUSE:
            wait = f"; it asks to wait {pause:,.0f} s" if pause else ""
            raise self._error(
                UnavailableError,
                f"cannot be read: the server {problem}{wait}",
                f"check the address, the network and the proxy, and try again; or {_DOWNLOAD}",
                "network",
            ) from error
        self._sleep(min(_LONGEST_PAUSE, _PAUSE * 2 ** (self._failures - 1)) if pause is None else pause)

    def _ask(self, start: int, stop: int) -> http.client.HTTPResponse:
        request = Request(self._target)  # noqa: S310 (address_of lets http and https pass, no other)
        request.add_header("Range", f"bytes={start}-{stop - 1}")
        request.add_header("Accept-Encoding", "identity")
        request.add_header("User-Agent", "ckptfix")
        if self._address.token and origin(self._target) == origin(self._address.url):
            request.add_unredirected_header("Authorization", f"Bearer {self._address.token}")
        response: http.client.HTTPResponse = self._opener.open(request, timeout=_TIMEOUT)
        try:
            self._check(response, start, stop)
        except CkptfixError:
            response.close()
            raise
        self._target = response.geturl()
        return response

    def _note(self, asked: str, headers: Message) -> None:
        """What the hub's own answer says before it leads on. Source: huggingface_hub, file_download.py,
        `get_hf_file_metadata`: for a file in its large file storage the ETag is the sha256."""
        sha256, size = headers.get("X-Linked-Etag", "").strip('"').lower(), headers.get("X-Linked-Size", "")
        if not self._address.on_hub or origin(asked) != origin(self._address.url):
            return
        if re.fullmatch(r"[0-9a-f]{64}", sha256) and re.fullmatch(r"\d{1,18}", size):
            stated = Stated(sha256, int(size))
            if self.stated not in (None, stated):
                raise self._changed()
            self.stated = stated

    def _check(self, response: http.client.HTTPResponse, start: int, stop: int) -> None:
        headers = response.headers
        if response.status == 200:
            self._check_whole(headers)
            return
        span = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", headers.get("Content-Range", ""))
        if response.status != 206 or span is None or not _is_plain(headers):
            raise self._error(
                UnavailableError, "its server sends ranges that cannot be placed in the file", _DOWNLOAD, "no-ranges"
            )
        first, last, size = map(int, span.groups())
        self._pin(size, headers)
        if (first, last) != (start, min(stop, size) - 1):
            raise self._changed()

    def _check_whole(self, headers: Message) -> None:
        """An answer that is the whole file, although a range was asked for."""
        if headers.get_content_type() == "text/html":
            raise self._error(
                UnreadableError,
                "is a web page, not a checkpoint",
                "give the address of the file itself: on Hugging Face one with /resolve/, or hf://owner/repo/path",
                "html-page",
            )
        length = headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,18}", length) or not _is_plain(headers):
            raise self.no_ranges()
        self.whole_only = True
        self._pin(int(length), headers)

    def no_ranges(self) -> CkptfixError:
        """What to raise where a server without ranges would have to send the whole file for a few bytes of it."""
        length = f" ({self.size:,} bytes)" if self.size else ""
        return self._error(
            UnavailableError,
            f"its server sends only the whole file{length}, no ranges, and not its beginning alone is needed",
            f"{_DOWNLOAD}: curl -L -O ADDRESS",
            "no-ranges",
        )

    def _pin(self, size: int, headers: Message) -> None:
        version = (size, headers.get("ETag", ""), headers.get("Last-Modified", ""))
        if self.stated is not None:
            if self.stated.size != size:
                problem = f"is {size:,} bytes long where its server keeps it, and {self.stated.size:,} as the hub says"
                raise self._error(DamagedError, problem, "try again later, or another revision", "truncated")
            version = (size, "", "")  # its stores may disagree on the rest, and its sha256 tells more
        if self._version is None:
            self._version = version
        if version != self._version:
            raise self._changed()

    def _changed(self) -> CkptfixError:
        return self._error(
            DamagedError, "changed on its server while it was read", "run it again; nothing was kept", "changed"
        )

    def _refusal(self, status: int) -> CkptfixError:
        if status in (401, 403):
            hint = f"get an address that needs no login, or {_DOWNLOAD}"
            if self._address.on_hub:
                hint = "check the names of repository and file; accept its terms on its page if it is gated, and "
                hint += "use a token that may read it" if self._address.token else "set HF_TOKEN to a token of yours"
            return self._error(UnavailableError, f"its server refuses access ({status})", hint, "access")
        if status in (404, 410):
            hint = "check repository, revision and path" if self._address.on_hub else "check the address"
            return self._error(UsageError, f"no such file on the server ({status})", hint, "no-such-file")
        if status == 416:
            return self._changed()
        if 300 <= status < 400:
            return self._error(
                UnavailableError, "its server leads from address to address without end", _DOWNLOAD, "network"
            )
        hint = f"check the address, or {_DOWNLOAD}"
        return self._error(UnavailableError, f"cannot be read: the server answers {status}", hint, "network")

    def _error(self, kind: type[CkptfixError], message: str, hint: str, code: str) -> CkptfixError:
        return kind(message, hint=hint, code=code, source=self._address.shown)


class _Redirects(HTTPRedirectHandler):
    """Follows to where https leads. A token goes on only to the very server that it was meant for."""

    def __init__(self, address: Address, note: Callable[[str, Message], None]) -> None:
        self._address = address
        self._note = note

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        self._note(req.full_url, headers)
        check_server(newurl, self._address.shown, loopback=self._address.loopback)
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if new is not None and token and origin(newurl) == origin(req.full_url):
            new.add_unredirected_header("Authorization", token)
        return new


def _described(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return f"sends nothing for {_TIMEOUT:.0f} s"
    if isinstance(reason, (http.client.HTTPException, ConnectionError)) and not isinstance(
        reason, ConnectionRefusedError
    ):
        return "cuts the connection"
    return f"cannot be reached ({printable(str(getattr(reason, 'strerror', None) or type(reason).__name__), 100)})"


def _asked_pause(headers: Message) -> float | None:
    """Seconds that Retry-After asks for, a number or a date."""
    word = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", word):
        return float(word)
    try:
        until = parsedate_to_datetime(word)
        return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def _is_plain(headers: Message) -> bool:
    return headers.get("Content-Encoding", "identity") == "identity"
