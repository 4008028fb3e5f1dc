"""Where a FILE lies: a path, or an address on the net (`https://…`, `hf://owner/repo[@rev]/path`).

An address can hold secrets (a signed query, a password), so only what `shown` makes of it is ever printed or stored.
Sources: huggingface_hub, hf_file_system.py (the form of hf://) and constants.py (HF_ENDPOINT, HF_HUB_OFFLINE).
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ckptfix.errors import UnavailableError, UsageError
from ckptfix.findings import Finding
from ckptfix.text import printable

Location: TypeAlias = "Path | str"  # a str is an address

_SCHEMES: Final = ("hf://", "http://", "https://")
_HUB: Final = "https://huggingface.co"
_ON_HUB: Final = re.compile(
    r"hf://((?:(?:datasets|spaces)/)?[\w.-]+/[\w.-]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/@]+))?/(.*[^/])"
)
_SAFE: Final = "/%:@!$&'()*+,;=~"
_TRUE: Final = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True, slots=True)
class Address:
    """What to ask for, and how to call it. `token` goes to the server of `url` alone, never on to another."""

    url: str
    shown: str
    token: str = ""
    on_hub: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def loopback(self) -> bool:
        return is_loopback(self.url)


def is_remote(name: str | os.PathLike[str]) -> bool:
    """Whether a FILE is an address and not a path."""
    return isinstance(name, str) and name.lower().startswith(_SCHEMES)


def is_address(text: str) -> bool:
    """Whether a text is one address and nothing else."""
    return is_remote(text) and not any(map(str.isspace, text))


def location(name: str | os.PathLike[str]) -> Location:
    """A FILE as a path, or as the address that it is: a `Path` would spoil its slashes."""
    return name if isinstance(name, str) and is_remote(name) else Path(name)


def shown(place: Location) -> str:
    """How to call a file in messages and reports: a path as it is, an address without password, query and fragment."""
    if isinstance(place, Path) or not is_remote(place):
        return str(place)
    scheme, _, rest = place.partition("://")
    server, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return printable(
        f"{scheme.lower()}://{server if scheme.lower() == 'hf' else server.rpartition('@')[2]}{slash}{path}", 1000
    )


def file_name(place: Location) -> str:
    """The last part of a path or of an address, decoded: what the file would be called on disk."""
    if isinstance(place, Path):
        return place.name
    name = shown(place).rpartition("/")[2]
    return name if place.lower().startswith("hf://") else unquote(name)


def file_suffix(place: Location) -> str:
    return PurePosixPath(file_name(place)).suffix


def is_loopback(url: str) -> bool:
    """Whether a server is this machine, by its name alone: nothing is looked up."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    import ipaddress  # only here: start-up time

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: what has to be alike for a token to be sent."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def address_of(name: str) -> Address:
    """What to ask the net for. Raises `UsageError` for an address of no use, `UnavailableError` if HF_HUB_OFFLINE."""
    called = shown(name)
    if any(os.environ.get(variable, "").upper() in _TRUE for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        raise UnavailableError(
            "lies on the net, and HF_HUB_OFFLINE forbids every request",
            hint="unset HF_HUB_OFFLINE, or give a local file",
            code="offline",
            source=called,
        )
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _HUB
    _check(endpoint, "HF_ENDPOINT", "HF_ENDPOINT")
    url = _on_hub(name, endpoint, called) if name.lower().startswith("hf://") else name
    parts = _check(url, "it", called)
    on_hub = origin(url) == origin(endpoint) or origin(url) == origin(_HUB)
    path = parts.path
    findings: tuple[Finding, ...] = ()
    if on_hub and re.match(r"/(?:(?:datasets|spaces)/)?[^/]+/[^/]+/blob/", path):
        path = path.replace("/blob/", "/resolve/", 1)
        findings = (Finding("address", "note", "is the address of a web page (/blob/): its file (/resolve/) is read"),)
    clean = parts._replace(path=quote(path, _SAFE), query=quote(parts.query, _SAFE + "?"), fragment="")
    return Address(clean.geturl(), called, _token() if on_hub else "", on_hub, findings)


def check_server(url: str, called: str, *, loopback: bool) -> SplitResult:
    """The parts of a http address; plain http is for this machine alone (`loopback`), since all on the way read it."""
    try:
        parts = urlsplit(url)
        fine = bool(parts.hostname) and parts.port != 0 and url.isprintable() and (parts.hostname or "").isascii()
    except ValueError:
        fine = False
    if not fine or parts.scheme not in ("http", "https"):
        raise UsageError("no address to read from", hint="check it: https://host/path", code="address", source=called)
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "an address with a name and a password in it is not read",
            hint="download the file first, then give its path",
            code="address",
            source=called,
        )
    if parts.scheme == "http" and not (loopback and is_loopback(url)):
        raise UsageError(
            "is plain http, in which anybody on the way can read and change the file",
            hint="use https://, or download the file first",
            code="address",
            source=called,
        )
    return parts


def _check(url: str, what: str, called: str) -> SplitResult:
    return check_server(url, called if what == "it" else what, loopback=True)


def _on_hub(name: str, endpoint: str, called: str) -> str:
    found = _ON_HUB.fullmatch("hf://" + name[5:])
    if found is None:
        raise UsageError(
            "names no file on the hub",
            hint="write hf://owner/repo/path, or hf://owner/repo@revision/path",
            code="address",
            source=called,
        )
    repo, revision, path = found[1], unquote(found[2] or "main"), found[3]
    return f"{endpoint}/{repo}/resolve/{quote(revision, '')}/{quote(path)}"


def _token() -> str:
    """The token of the environment, else the one that `hf auth login` has stored; "" for none.

    Source: huggingface_hub, utils/_auth.py (`get_token`) and constants.py (HF_TOKEN_PATH, HF_HOME).
    """
    token, where = os.environ.get("HF_TOKEN", "").strip(), "HF_TOKEN"
    if not token and os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() not in _TRUE:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
        where = "the stored token"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            path = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
            token = path.read_text(encoding="utf-8").strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageError(f"{where} holds what no token does", hint="set it again: hf auth login", code="token")
    return token
