"""Checkpoint files in parts, so that one part can be changed while the rest stays sound around it."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

LOCAL = struct.Struct("<4sHHHHHLLLHH")
CENTRAL = struct.Struct("<4sHHHHHHLLLHHHHHLL")
END = struct.Struct("<4sHHHHLLH")
END64 = struct.Struct("<4sQHHLLQQQQ")
LOCATOR = struct.Struct("<4sLQL")
LOCAL_FIELDS = ("signature", "version", "flags", "method", "time", "date", "crc", "stored", "size")
CENTRAL_FIELDS = (
    *("signature", "made", "version", "flags", "method", "time", "date", "crc", "stored", "size"),
    *("disk", "internal", "external", "header"),
)
END_FIELDS = ("signature", "disk", "start_disk", "here", "count", "size", "offset")
END64_FIELDS = ("signature", "record", "made", "version", "disk", "start_disk", "here", "count", "size", "offset")
LOCATOR_FIELDS = ("signature", "disk", "position", "disks")
SIGNATURES = {"local": b"PK\x03\x04", "central": b"PK\x01\x02", "end": b"PK\x05\x06", "end64": b"PK\x06\x06"}

Fields = dict[str, int | bytes]


@dataclass(slots=True)
class Member:
    """One record: `payload` is what the file stores; `local` and `central` override fields of the two headers."""

    name: bytes
    payload: bytes
    method: int = 0
    crc: int = 0
    size: int = 0
    flags: int = 0
    extra: bytes = b""
    descriptor: bytes = b""
    before: bytes = b""
    listed: int = 1  # how often the directory names it
    stored: bool = True
    local: Fields = field(default_factory=dict)
    central: Fields = field(default_factory=dict)

    def fill(self, content: bytes) -> None:
        """New content under sound headers."""
        self.payload = zlib.compress(content, wbits=-15) if self.method == 8 else content
        self.size, self.crc = len(content), zlib.crc32(content)
        if self.descriptor:
            self.describe()

    def describe(self) -> None:
        """Repeat checksum and sizes after the data, cut to 32 bits."""
        numbers = (self.crc, len(self.payload), self.size)
        self.descriptor = b"PK\x07\x08" + struct.pack("<LLL", *(value & 0xFFFFFFFF for value in numbers))

    def content(self) -> bytes:
        """What is stored; the packed bytes as they are where an earlier change damaged them."""
        try:
            return zlib.decompress(self.payload, -15) if self.method == 8 else self.payload
        except zlib.error:
            return self.payload


@dataclass(slots=True)
class ZipSample:
    members: list[Member]
    before: bytes = b""
    after: bytes = b""
    comment: bytes = b""
    wide: bool = False  # with a 64-bit end record
    end: Fields = field(default_factory=dict)
    end64: Fields = field(default_factory=dict)
    locator: Fields = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> ZipSample:
        """The parts of a sound archive."""
        members = []
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            starts = [info.header_offset for info in infos] + [archive.start_dir]
        for info, following in zip(infos, starts[1:], strict=True):
            fields = LOCAL.unpack_from(data, info.header_offset)
            extra_at = info.header_offset + LOCAL.size + fields[9]
            start = extra_at + fields[10]
            end = start + info.compress_size
            name = data[info.header_offset + LOCAL.size : extra_at]
            member = Member(name, data[start:end], info.compress_type, info.CRC, info.file_size, fields[2])
            member.extra, member.descriptor = data[extra_at:start], data[end:following]
            if member.descriptor:
                member.local = {"crc": fields[6], "stored": fields[7], "size": fields[8]}
            members.append(member)
        return cls(members, comment=archive.comment)

    def copy(self) -> ZipSample:
        members = [replace(member, local=dict(member.local), central=dict(member.central)) for member in self.members]
        return replace(self, members=members, end=dict(self.end), end64=dict(self.end64), locator=dict(self.locator))

    def build(self) -> bytes:
        body = bytearray(self.before)
        directory = bytearray()
        count = 0
        for member in self.members:
            header = len(body)
            if member.stored:
                body += member.before + _local(member) + member.payload + member.descriptor
            for _ in range(member.listed):
                directory += _central(member, header + len(member.before))
                count += 1
        offset = len(body)
        body += directory
        if self.wide:
            position = len(body)
            body += _end64(self.end64, count, len(directory), offset)
            body += _packed(LOCATOR, LOCATOR_FIELDS, (b"PK\x06\x07", 0, position, 1), self.locator)
        body += _end(self.end, count, len(directory), offset, self.comment)
        return bytes(body + self.after)

    def index(self) -> Member | None:
        return next((member for member in self.members if member.name.endswith(b"data.pkl")), None)


def _packed(form: struct.Struct, names: tuple[str, ...], values: tuple[int | bytes, ...], given: Fields) -> bytes:
    """Fields in order, overridden by name and cut to what fits."""
    fixed: list[Any] = [
        *(given.get(name, value) for name, value in zip(names, values, strict=False)),
        *values[len(names) :],
    ]
    return form.pack(
        *(value if mask is None else value & mask for value, mask in zip(fixed, _MASKS[form], strict=True))
    )


_WIDTHS = {"s": None, "H": 0xFFFF, "L": 0xFFFFFFFF, "Q": (1 << 64) - 1}
_MASKS: dict[struct.Struct, list[Any]] = {
    form: [_WIDTHS[code] for code in form.format if code in _WIDTHS] for form in (LOCAL, CENTRAL, END, END64, LOCATOR)
}


def _name(fields: Fields, member: Member) -> bytes:
    name = fields.get("name", member.name)
    return name if isinstance(name, bytes) else member.name


def _local(member: Member) -> bytes:
    name = _name(member.local, member)
    values = (SIGNATURES["local"], 20, member.flags, member.method, 0, 33, member.crc, len(member.payload))
    lengths = (len(name), len(member.extra))
    return _packed(LOCAL, LOCAL_FIELDS, (*values, member.size, *lengths), member.local) + name + member.extra


def _central(member: Member, header: int) -> bytes:
    name = _name(member.central, member)
    extra = member.central.get("extra", b"")
    extra = extra if isinstance(extra, bytes) else b""
    fixed: tuple[int | bytes, ...] = (
        *(SIGNATURES["central"], 20, 20, member.flags, member.method, 0, 33, member.crc, len(member.payload)),
        *(member.size, len(name), len(extra), 0, 0, 0, 0, header),
    )
    names = (*CENTRAL_FIELDS[:10], "name_length", "extra_length", "comment_length", *CENTRAL_FIELDS[10:])
    return _packed(CENTRAL, names, fixed, member.central) + name + extra


def _end(given: Fields, count: int, size: int, offset: int, comment: bytes) -> bytes:
    values = (SIGNATURES["end"], 0, 0, count, count, size, offset, len(comment))
    return _packed(END, END_FIELDS, values, given) + comment


def _end64(given: Fields, count: int, size: int, offset: int) -> bytes:
    values = (SIGNATURES["end64"], END64.size - 12, 45, 45, 0, 0, count, count, size, offset)
    return _packed(END64, END64_FIELDS, values, given)


@dataclass(slots=True)
class LegacySample:
    """Five pickles and what follows them."""

    pickles: list[bytes]
    tail: bytes

    def copy(self) -> LegacySample:
        return LegacySample(list(self.pickles), self.tail)

    def build(self) -> bytes:
        return b"".join(self.pickles) + self.tail


@dataclass(slots=True)
class HeaderSample:
    """A safetensors file; `length` None means the header's own."""

    header: bytes
    data: bytes
    length: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> HeaderSample:
        end = 8 + int.from_bytes(data[:8], "little")
        return cls(data[8:end], data[end:])

    def copy(self) -> HeaderSample:
        return replace(self)

    def build(self) -> bytes:
        length = len(self.header) if self.length is None else self.length
        return (length & (1 << 64) - 1).to_bytes(8, "little") + self.header + self.data


@dataclass(slots=True)
class RawSample:
    """Any bytes, without known parts."""

    data: bytes

    def copy(self) -> RawSample:
        return RawSample(self.data)

    def build(self) -> bytes:
        return self.data


Sample = ZipSample | LegacySample | HeaderSample | RawSample
