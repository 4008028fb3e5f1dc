"""The central directory of a zip archive, read by strict rules: what two readers could read differently is refused.

One entry per name (case folded too), no overlap, nothing before the archive, local header = central directory, stored
or deflate only. Source of the record layouts: PKWARE APPNOTE 6.3.10, sections 4.3.7 to 4.3.16.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ckptfix.errors import UnreadableError
from ckptfix.formats.bytesource import ByteSource, read_at, read_some
from ckptfix.formats.inflation import check_inflated
from ckptfix.formats.limits import Limits, limit_error
from ckptfix.manifest import Record, ZipHeader
from ckptfix.text import printable

STORED: Final = 0
DEFLATED: Final = 8
LOCAL_SIGNATURE: Final = b"PK\x03\x04"
DESCRIPTOR_SIGNATURE: Final = b"PK\x07\x08"
END_SIGNATURE: Final = b"PK\x05\x06"
_ENTRY_SIGNATURE: Final = b"PK\x01\x02"
_END64_SIGNATURE: Final = b"PK\x06\x06"
_LOCATOR_SIGNATURE: Final = b"PK\x06\x07"
LOCAL: Final = struct.Struct("<4sHHHHHLLLHH")
_ENTRY: Final = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_END: Final = struct.Struct("<4sHHHHLLH")
_END64: Final = struct.Struct("<4sQHHLLQQQQ")
_LOCATOR: Final = struct.Struct("<4sLQL")
_FULL16: Final = 0xFFFF
_FULL32: Final = 0xFFFFFFFF
_ENCRYPTED: Final = 0x2041  # encrypted, strong encryption, masked headers
_FOLDER: Final = 0x10  # in the attributes of MS-DOS, which miniz believes (mz_zip_reader_is_file_a_directory)
_UTF8: Final = 0x800  # names are UTF-8, else in the code page of MS-DOS
_UNICODE_PATH: Final = 0x7075  # an extra field with another spelling of the name, which some readers prefer
HAS_DESCRIPTOR: Final = 0x8
# After the data: checksum and sizes in 32 or 64 bits, with or without a signature before them.
_DESCRIPTORS: Final = tuple(struct.Struct(form) for form in ("<4sLLL", "<4sLQQ", "<LLL", "<LQQ"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive; positions and sizes in bytes, `start` is where its data begins.

    Of a remote archive `start` is the least that it can be, until `located` reads the header `unread`.
    """

    name: str
    deflated: bool
    crc: int
    stored_size: int
    size: int
    header: int
    start: int
    unread: ZipHeader | None = None


class NoDirectoryError(Exception):
    """The archive has no end record: it was cut, or is no archive. Never leaves `ckptfix.formats`."""


def read_directory(source: ByteSource, limits: Limits) -> list[Entry]:
    """All entries in the order of their data. Raises `NoDirectoryError`, `UnreadableError`, `UnsafeError`."""
    count, size, offset = _find_directory(source)
    if count > limits.records:
        raise limit_error("records", f"the archive declares {count:,} records, over {limits.records:,}")
    if size > count * (_ENTRY.size + 3 * _FULL16) or size > _MAX_DIRECTORY:
        raise limit_error("records", f"the archive's directory takes {size:,} bytes")
    data = read_at(source, offset, size)
    raw: list[ZipHeader] = []
    position = 0
    for _ in range(count):
        entry, position = _parse_entry(data, position, source)
        raw.append(entry)
    if position != size:
        raise bad_archive(source, "its directory is longer than its entries")
    raw.sort(key=lambda entry: entry.position)
    return _check(source, raw, offset, limits)


_MAX_DIRECTORY: Final = 32 << 20


def bad_archive(source: ByteSource, problem: str) -> UnreadableError:
    """The refusal of an archive that readers may understand differently."""
    return UnreadableError(
        f"the zip archive cannot be trusted: {problem}",
        hint="get the file again; if it was re-packed by hand, unpack it and save it anew with torch.save",
        code="archive",
        source=source.name,
    )


def _find_directory(source: ByteSource) -> tuple[int, int, int]:
    """Number of entries, size and offset of the central directory."""
    for reach in (_END.size, _END.size + _FULL16):  # without a comment, then with the longest
        tail_start = max(0, source.size - reach)
        tail = read_at(source, tail_start, source.size - tail_start)
        found = tail.rfind(END_SIGNATURE)
        if 0 <= found <= len(tail) - _END.size:
            break
    else:
        raise NoDirectoryError
    _, disk, start_disk, here, count, size, offset, comment = _END.unpack_from(tail, found)
    if found + _END.size + comment != len(tail):
        raise NoDirectoryError
    end = tail_start + found
    locator = end - _LOCATOR.size
    if locator >= 0 and read_at(source, locator, 4) == _LOCATOR_SIGNATURE:
        wide = _read_end64(source, locator)
        narrow = (here, count, size, offset)
        full = (_FULL16, _FULL16, _FULL32, _FULL32)
        if any(n not in (w, f) for n, w, f in zip(narrow, (wide[0], *wide[:3]), full, strict=True)):
            raise bad_archive(source, "its two end records disagree")
        count, size, offset, end = wide
    elif _FULL16 in (here, count) or _FULL32 in (size, offset):
        raise bad_archive(source, "its 64-bit end record is missing")
    elif here != count:
        raise bad_archive(source, "it is one part of several")
    if disk or start_disk:
        raise bad_archive(source, "it is one part of several")
    if offset + size != end:
        raise bad_archive(source, "there are bytes before it or inside its directory that do not belong to it")
    return count, size, offset


def _read_end64(source: ByteSource, locator: int) -> tuple[int, int, int, int]:
    """Number of entries, size and offset of the directory, and where the 64-bit end record stands."""
    _, _, position, disks = _LOCATOR.unpack(read_at(source, locator, _LOCATOR.size))
    if position + _END64.size > locator or disks > 1:
        raise bad_archive(source, "its 64-bit end record is out of place")
    fields = _END64.unpack(read_at(source, position, _END64.size))
    signature, record_size, _, _, disk, start_disk, here, count, size, offset = fields
    if signature != _END64_SIGNATURE or position + 12 + record_size != locator or here != count or disk or start_disk:
        raise bad_archive(source, "its 64-bit end record is damaged")
    return count, size, offset, position


def _parse_entry(data: bytes, position: int, source: ByteSource) -> tuple[ZipHeader, int]:
    if position + _ENTRY.size > len(data):
        raise bad_archive(source, "its directory is cut")
    fields = _ENTRY.unpack_from(data, position)
    signature, _, _, flags, method, _, _, crc, stored, size, name_len, extra_len, comment_len, disk = fields[:14]
    attributes, header = fields[15:]
    names = position + _ENTRY.size
    end = names + name_len + extra_len + comment_len
    if signature != _ENTRY_SIGNATURE or end > len(data):
        raise bad_archive(source, "its directory is damaged")
    raw_name = data[names : names + name_len]
    extra = data[names + name_len : names + name_len + extra_len]
    if _FULL32 in (stored, size, header):
        size, stored, header = _widen(extra, size, stored, header, source)
    try:
        name = raw_name.decode("utf-8" if flags & _UTF8 or raw_name.isascii() else "cp437")
    except UnicodeDecodeError:
        raise bad_archive(source, "a record's name is no UTF-8") from None
    spelled = [body[5:] for kind, body in _extra_fields(extra) if kind == _UNICODE_PATH]
    if any(spelling != name.encode() for spelling in spelled):
        raise bad_archive(source, f"{printable(name)} has another name in its extra field")
    if not name or "\0" in name or "\\" in name:
        raise bad_archive(source, f"a record has the name '{printable(name)}'")
    shown = printable(name)
    if attributes & _FOLDER and not name.endswith("/"):
        raise bad_archive(source, f"{shown} is marked as a folder, and torch would return memory that nobody filled")
    if flags & _ENCRYPTED:
        raise bad_archive(source, f"{shown} is encrypted")
    if method not in (STORED, DEFLATED):
        raise bad_archive(source, f"{shown} is packed by method {method}, neither stored nor deflate")
    if disk not in (0, _FULL16) or (method == STORED and stored != size):
        raise bad_archive(source, f"{shown} has contradicting sizes")
    return ZipHeader(name, raw_name, method, crc, stored, size, header), end


def _widen(extra: bytes, size: int, stored: int, header: int, source: ByteSource) -> tuple[int, int, int]:
    """The 64-bit size, stored size and header offset, for those that do not fit 32 bits."""
    for kind, body in _extra_fields(extra):
        if kind != 1:
            continue
        values = [value for (value,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
        narrow = (size, stored, header)
        wanted = [index for index, value in enumerate(narrow) if value == _FULL32]
        if len(values) < len(wanted):
            break
        wide = list(narrow)
        for index, value in zip(wanted, values[: len(wanted)], strict=True):
            wide[index] = value
        return wide[0], wide[1], wide[2]
    raise bad_archive(source, "a 64-bit size is missing")


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        yield kind, extra[position + 4 : position + 4 + length]
        position += 4 + length


def _check(source: ByteSource, raw: list[ZipHeader], directory: int, limits: Limits) -> list[Entry]:
    """Compare all entries with each other, and every one with its local header: of a remote archive when it is read."""
    names: set[str] = set()
    entries: list[Entry] = []
    end = 0
    for index, entry in enumerate(raw):
        shown = printable(entry.name)
        folded = entry.name.casefold()
        if folded in names:
            raise bad_archive(source, f"it has two records named {shown}")
        names.add(folded)
        if index == 0 and entry.position != 0:
            raise bad_archive(source, "there are bytes before its first record")
        if entry.position < end:
            raise bad_archive(source, f"{shown} overlaps the record before it")
        start = _least_start(entry) if source.remote else _check_local(source, entry)
        end = start + entry.stored_size
        if end > directory:
            raise bad_archive(source, f"{shown} reaches past the start of the directory")
        if entry.method == DEFLATED:
            check_inflated(entry.size, entry.stored_size, limits, shown)
        following = raw[index + 1].position if index + 1 < len(raw) else directory
        entries.append(
            Entry(
                entry.name,
                entry.method == DEFLATED,
                entry.crc,
                entry.stored_size,
                entry.size,
                entry.position,
                start,
                replace(entry, end=following) if source.remote else None,
            )
        )
    return entries


def _least_start(entry: ZipHeader) -> int:
    """Where the data begins if the local header has no extra field."""
    return entry.position + LOCAL.size + len(entry.raw_name)


def located(source: ByteSource, entry: Entry) -> Entry:
    """The entry with its true start, its header read and checked if that was left until now."""
    return entry if entry.unread is None else replace(entry, start=data_start(source, entry.unread), unread=None)


def located_record(source: ByteSource, record: Record) -> Record:
    """The record with its true position, its header read and checked if that was left until now."""
    return record if record.unread is None else replace(record, position=data_start(source, record.unread), unread=None)


def data_start(source: ByteSource, header: ZipHeader) -> int:
    """Where the data behind a header begins. Raises `UnreadableError` where it contradicts the directory."""
    source.expect(header.position, header.end - header.position)
    start = _check_local(source, header)
    if start + header.stored_size > header.end:
        raise bad_archive(source, f"{printable(header.name)} overlaps the record after it")
    return start


def _check_local(source: ByteSource, entry: ZipHeader) -> int:
    """Where the data of an entry begins; refuses a local header that tells another story than the directory."""
    shown = printable(entry.name)
    length = LOCAL.size + len(entry.raw_name)
    if entry.position + length > source.size:
        raise bad_archive(source, f"{shown} lies outside the file")
    header = read_at(source, entry.position, length)
    signature, _, flags, method, _, _, crc, stored, size, name_len, extra_len = LOCAL.unpack_from(header)
    if signature != LOCAL_SIGNATURE or name_len != len(entry.raw_name) or header[LOCAL.size :] != entry.raw_name:
        raise bad_archive(source, f"{shown} has another name in its own header")
    if method != entry.method or flags & _ENCRYPTED:
        raise bad_archive(source, f"{shown} is packed in another way by its own header")
    if _FULL32 in (stored, size):
        extra = read_at(source, entry.position + length, min(extra_len, source.size - entry.position - length))
        size, stored, _ = _widen(extra, size, stored, 0, source)
    told, true = (crc, stored, size), (entry.crc, entry.stored_size, entry.size)
    if told != true and not (flags & HAS_DESCRIPTOR and told == (0, 0, 0)):
        raise bad_archive(source, f"{shown} has another size or checksum in its own header")
    start = entry.position + length + int(extra_len)
    if told != true and entry.size:  # torch writes none after an empty record
        tail = read_some(source, start + entry.stored_size, _DESCRIPTORS[1].size)
        if not any(_describes(form, tail, true) for form in _DESCRIPTORS):
            raise bad_archive(source, f"{shown} has another size or checksum after its data")
    return start


def _describes(form: struct.Struct, tail: bytes, true: tuple[int, int, int]) -> bool:
    if len(tail) < form.size:
        return False
    *signature, crc, stored, size = form.unpack_from(tail)
    return (crc, stored, size) == true and signature in ([], [DESCRIPTOR_SIGNATURE])
