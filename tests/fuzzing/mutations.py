"""How a file may go wrong: changes to its parts, one at a time, each decided by a `random.Random`."""

from __future__ import annotations

import json
import pickletools
import re
import struct
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import Any

from tests.fixtures import broken_files as files
from tests.fuzzing.samples import (
    CENTRAL_FIELDS,
    END64_FIELDS,
    END_FIELDS,
    LOCAL_FIELDS,
    LOCATOR_FIELDS,
    Fields,
    HeaderSample,
    LegacySample,
    Member,
    RawSample,
    Sample,
    ZipSample,
)

NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 24, 40, 255, 256, 257, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 40) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
    *(-1, -2, -(1 << 31), -(1 << 63), 1 << 64, 10**30),
)
WORDS = (
    *("", "a", "b", "A", "x" * 300, "__metadata__", "a.b", "/", "..", "../../etc/passwd", "\0", "é", "\ud800", "a\n"),
    *(
        "image_proj",
        "ip_adapter",
        "state_dict",
        "cpu",
        "cuda:0",
        "meta",
        "storage",
        "module",
        "0",
        "1",
        "00",
        "9",
        "-1",
    ),
    *("latents", "constructor", "utf-8", "latin1", "conj", "neg", "_parameters", "_modules", "_buffers"),
)
GLOBALS = (
    *("os system", "builtins eval", "builtins getattr", "builtins dict", "posix system", "sys modules", "a b", " "),
    *("collections OrderedDict", "collections defaultdict", "collections Counter", "argparse Namespace"),
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
    *("torch._utils _rebuild_parameter", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_sparse_tensor"),
    *("torch._tensor _rebuild_from_type_v2", "torch Size", "torch FloatStorage", "torch HalfStorage", "torch float32"),
    *("torch.storage UntypedStorage", "torch.storage _load_from_bytes", "torch BFloat16Storage", "torch BoolStorage"),
    *("torch LongStorage", "torch ByteStorage", "torch QInt8Storage", "torch ComplexDoubleStorage", "torch Tensor"),
    *(
        "torch.nn.parameter Parameter",
        "numpy dtype",
        "numpy.core.multiarray scalar",
        "_codecs encode",
        "torch bfloat16",
    ),
    *("torch.jit._pickle restore_type_tag", "copyreg _reconstructor", "builtins set", "datetime datetime"),
)
SNIPPETS = (
    *(b"N", b"}", b"]", b")", b"(", b".", b"0", b"1", b"2", b"\x85", b"\x86", b"\x87", b"t", b"l", b"d", b"R", b"b"),
    *(
        b"Q",
        b"s",
        b"u",
        b"a",
        b"e",
        b"o",
        b"\x81",
        b"\x92",
        b"\x93",
        b"\x94",
        b"\x8f",
        b"\x90",
        b"\x91",
        b"\x97",
        b"\x98",
    ),
    *(b"(}", b"(t", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"h\x02", b"h\x05", b"j\xff\xff\xff\xff", b"\x82\x01"),
    *(b"r\xff\xff\xff\x7f", b"\x80\x05", b"\x95" + b"\xff" * 8, b"\x8e" + b"\xff" * 8, b"\x8d" + b"\0" * 7 + b"\x7f"),
    *(b"T\xff\xff\xff\x7f", b"B\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"I99999\n", b"L9" + b"9" * 5000 + b"L\n"),
    *(
        b"F1e999\n",
        b"Fnan\n",
        b"S'a'\n",
        b"V\\ud800\n",
        b"P0\n",
        b"p0\n",
        b"g0\n",
        b"g-1\n",
        b"ios\nsystem\n",
        b"M\xff\xff",
    ),
    *(b")R", b"}b", b"(X\x01\x00\x00\x00aNu", b"\x88", b"\x89", b"G\x7f\xf8\0\0\0\0\0\0", b"(" * 300, b"}" * 300),
)


def mutate(sample: Sample, chance: Random) -> bytes:
    """The bytes of a sample after one to four changes; `sample` itself is spoilt."""
    if isinstance(sample, RawSample):
        return change_bytes(sample.data, chance)
    _CHANGED.clear()  # a mutant never depends on the one before
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        if isinstance(sample, ZipSample):
            chance.choices((_change_archive, _change_index), (4, 6))[0](sample, chance)
        elif isinstance(sample, LegacySample):
            _change_legacy(sample, chance)
        else:
            chance.choices((_change_header, _change_header_text), (6, 4))[0](sample, chance)
    data = sample.build()
    return change_bytes(data, chance) if chance.random() < 0.15 else data


def number(chance: Random, near: int = 0) -> int:
    """A number that readers get wrong: a border, or one close to the right one."""
    return near + chance.randint(-8, 8) if chance.random() < 0.4 else chance.choice(NUMBERS)


# -- raw bytes ---------------------------------------------------------------------------------------------------


def change_bytes(data: bytes, chance: Random) -> bytes:
    """One to four flips, cuts, splices or overwritten numbers anywhere."""
    buffer = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        chance.choice(_RAW)(buffer, chance)
    return bytes(buffer)


def _flip(buffer: bytearray, chance: Random) -> None:
    if buffer:
        buffer[chance.randrange(len(buffer))] ^= 1 << chance.randrange(8)


def _overwrite(buffer: bytearray, chance: Random) -> None:
    width = chance.choice((1, 2, 4, 8))
    if len(buffer) >= width:
        at = chance.randrange(len(buffer) - width + 1)
        old = int.from_bytes(buffer[at : at + width], "little")
        new = number(chance, old) & ((1 << 8 * width) - 1)
        buffer[at : at + width] = new.to_bytes(width, "little")


def _cut(buffer: bytearray, chance: Random) -> None:
    del buffer[chance.randrange(len(buffer) + 1) :]


def _remove(buffer: bytearray, chance: Random) -> None:
    at = chance.randrange(len(buffer) + 1)
    del buffer[at : at + chance.choice((1, 1, 2, 4, 8, 30, 64, 512))]


def _insert(buffer: bytearray, chance: Random) -> None:
    at = chance.randrange(len(buffer) + 1)
    buffer[at:at] = chance.choice((chance.randbytes(chance.randrange(1, 9)), bytes(64), chance.choice(SNIPPETS)))


def _repeat(buffer: bytearray, chance: Random) -> None:
    start = chance.randrange(len(buffer) + 1)
    part = bytes(buffer[start : start + chance.choice((1, 8, 46, 100))])
    at = chance.randrange(len(buffer) + 1)
    buffer[at:at] = part * chance.choice((1, 1, 2, 20))


def _zeros(buffer: bytearray, chance: Random) -> None:
    at = chance.randrange(len(buffer) + 1)
    size = min(len(buffer) - at, chance.choice((1, 4, 64, 512, 4096)))
    buffer[at : at + size] = bytes(size)


_RAW: tuple[Callable[[bytearray, Random], None], ...] = (
    *(_flip, _flip, _overwrite, _overwrite, _cut, _remove, _insert, _repeat, _zeros),
)


# -- pickles -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def opcodes(data: bytes) -> tuple[bytes, ...]:
    """A sound pickle cut at its opcodes."""
    starts = [at or 0 for _, _, at in pickletools.genops(data)] + [len(data)]
    return tuple(data[start:end] for start, end in pairwise(starts))


def change_pickle(data: bytes, chance: Random) -> bytes:
    """One to three opcodes removed, doubled, moved, replaced, or given another argument."""
    try:
        parts = list(_CHANGED.get(data) or opcodes(data))
    except (ValueError, IndexError, OverflowError, UnicodeDecodeError, struct.error):  # damaged before
        return change_bytes(data, chance)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(parts)) if parts else 0
        kind = chance.randrange(16)
        if not parts or kind == 0:
            parts[at:at] = [chance.choice(SNIPPETS)]
        elif kind == 1:
            del parts[at : at + chance.choice((1, 1, 2, 5))]
        elif kind == 2:
            parts[at:at] = parts[at : at + chance.choice((1, 2, 10, 40))]
        elif kind == 3:
            other = chance.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif kind == 4:
            parts[at] = chance.choice(SNIPPETS)
        elif kind == 5:
            parts[at:at] = [_called(chance.choice(GLOBALS[:12]))]
        else:
            at = next((i for i in range(at, len(parts)) if len(parts[i]) > 1), at)
            parts[at] = _other_argument(parts[at], chance)
    changed = b"".join(parts)
    _CHANGED[changed] = parts
    return changed


# Parts of the pickles that were changed already in this mutant, which may be sound ones no more.
_CHANGED: dict[bytes, list[bytes]] = {}


def _called(name: str) -> bytes:
    module, word = name.split(" ", 1)
    return files.call(module, word, files.text("id"))


def _other_argument(part: bytes, chance: Random) -> bytes:
    """The same kind of value, with another content."""
    code = part[:1]
    if code in b"KMJ\x8a\x8bIL":
        old = int.from_bytes(part[1:2], "little") if code in b"K\x8a" else int.from_bytes(part[1:5], "little")
        return _integer(number(chance, old if code == b"K" else 0))
    if code in b"X\x8cUVTS":
        return files.text(chance.choice(WORDS))
    if code == b"c":
        module, name = chance.choice(GLOBALS).split(" ", 1)
        return files.name(module, name)
    if code in b"hqjr\x94":
        return code + bytes([chance.randrange(30)]) + part[2:] if code != b"\x94" else b""
    buffer = bytearray(part)
    _flip(buffer, chance)
    return bytes(buffer)


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _change_legacy(sample: LegacySample, chance: Random) -> None:
    kind = chance.randrange(8)
    if kind == 0:
        sample.tail = change_bytes(sample.tail, chance)
    elif kind == 1 and len(sample.tail) >= 8:
        old = int.from_bytes(sample.tail[:8], "little")
        sample.tail = (number(chance, old) & (1 << 64) - 1).to_bytes(8, "little") + sample.tail[8:]
    else:
        at = chance.choice((0, 1, 2, 3, 3, 3, 3, 3, 4, 4))
        sample.pickles[at] = change_pickle(sample.pickles[at], chance)


# -- archives ----------------------------------------------------------------------------------------------------


def _change_index(sample: ZipSample, chance: Random) -> None:
    """data.pkl changed under sound headers."""
    member = sample.index()
    if member is not None:
        member.fill(change_pickle(member.content(), chance))


def _change_archive(sample: ZipSample, chance: Random) -> None:
    if sample.members:
        chance.choice(_ARCHIVE)(sample, chance.choice(sample.members), chance)


def _field(given: Fields, names: tuple[str, ...], chance: Random) -> None:
    given[chance.choice(names[1:])] = number(chance)


def _local_field(sample: ZipSample, member: Member, chance: Random) -> None:
    _field(member.local, LOCAL_FIELDS, chance)


def _central_field(sample: ZipSample, member: Member, chance: Random) -> None:
    _field(member.central, CENTRAL_FIELDS, chance)


def _both_fields(sample: ZipSample, member: Member, chance: Random) -> None:
    name, value = chance.choice(LOCAL_FIELDS[1:]), number(chance, member.size)
    member.local[name] = member.central[name] = value


def _sizes(sample: ZipSample, member: Member, chance: Random) -> None:
    member.size = max(0, number(chance, member.size))
    if chance.random() < 0.5:
        member.local["stored"] = member.central["stored"] = member.size


def _end_field(sample: ZipSample, member: Member, chance: Random) -> None:
    _field(sample.end, END_FIELDS, chance)


def _wide_end(sample: ZipSample, member: Member, chance: Random) -> None:
    sample.wide = True
    if chance.random() < 0.7:
        _field(sample.end64, END64_FIELDS, chance)
    if chance.random() < 0.3:
        _field(sample.locator, LOCATOR_FIELDS, chance)
    if chance.random() < 0.5:
        sample.end |= {"here": 0xFFFF, "count": 0xFFFF, "size": 0xFFFFFFFF, "offset": 0xFFFFFFFF}


def _rename(sample: ZipSample, member: Member, chance: Random) -> None:
    other = chance.choice(sample.members).name
    name = chance.choice(
        (
            *(
                other,
                other.upper(),
                member.name.swapcase(),
                member.name + b"/",
                b"./" + member.name,
                b"/" + member.name,
            ),
            *(member.name.replace(b"/", b"\\"), member.name + b"\0x", b"x/" + member.name, b"", b"data.pkl"),
            *(member.name.rpartition(b"/")[2], b"..", chance.choice(WORDS).encode("utf-8", "surrogatepass")),
            *(b"archive/.data/byteorder", b"archive/byteorder", b"archive/data/1", b"x/data.pkl", b"\xff\xfe"),
        )
    )
    where = chance.randrange(3)
    if where == 0:
        member.name = name
    else:
        (member.local if where == 1 else member.central)["name"] = name
        if len(name) != len(member.name) and chance.random() < 0.5:
            member.central["name"] = name.ljust(len(member.name), b"x")[: len(member.name)]


def _double(sample: ZipSample, member: Member, chance: Random) -> None:
    copy = Member(member.name, member.payload, member.method, member.crc, member.size, member.flags, member.extra)
    if chance.random() < 0.7:
        copy.fill(chance.randbytes(len(member.content())) if member.method in (0, 8) else b"")
    copy.listed = chance.choice((0, 1, 1))
    sample.members.insert(chance.randrange(len(sample.members) + 1), copy)


def _remove_member(sample: ZipSample, member: Member, chance: Random) -> None:
    kind = chance.randrange(4)
    if kind == 0:
        sample.members.remove(member)
    elif kind == 1:
        member.stored = False
    else:
        member.listed = chance.choice((0, 2))


def _order(sample: ZipSample, member: Member, chance: Random) -> None:
    sample.members.remove(member)
    sample.members.insert(chance.randrange(len(sample.members) + 1), member)


def _method(sample: ZipSample, member: Member, chance: Random) -> None:
    if member.method not in (0, 8):
        return
    content = member.content()
    member.method = 8 - member.method
    if chance.random() < 0.7:
        member.fill(content)


def _payload(sample: ZipSample, member: Member, chance: Random) -> None:
    """Damaged data, with or without a checksum that hides it."""
    new = change_bytes(member.payload, chance)
    if chance.random() < 0.5 and member.method == 0:
        member.fill(new)
    else:
        member.payload = new


def _content(sample: ZipSample, member: Member, chance: Random) -> None:
    if member.method in (0, 8):
        member.fill(chance.choice((b"", b"big", b"little", b"Little", b"big\n", b"3\n", b"\0" * 24, b"x" * 2000)))


def _flags(sample: ZipSample, member: Member, chance: Random) -> None:
    member.flags ^= 1 << chance.choice((0, 3, 3, 3, 6, 11, 11, 13))
    if member.flags & 8 and chance.random() < 0.7:
        member.local |= {"crc": 0, "stored": 0, "size": 0}
        member.describe()


def _crc(sample: ZipSample, member: Member, chance: Random) -> None:
    for each in sample.members if chance.random() < 0.5 else (member,):
        each.crc = 0


def _extra(sample: ZipSample, member: Member, chance: Random) -> None:
    wide = b"".join((number(chance, member.size) & (1 << 64) - 1).to_bytes(8, "little") for _ in range(3))
    field = struct.pack("<HH", chance.choice((1, 1, 1, 0x4246, 0x7075)), chance.choice((8, 16, 24, 24, 200))) + wide
    if chance.random() < 0.5:
        member.extra = field
    if chance.random() < 0.7:
        member.central["extra"] = field
        for name in chance.sample(("size", "stored", "header"), chance.randint(1, 3)):
            member.central[name] = 0xFFFFFFFF


def _around(sample: ZipSample, member: Member, chance: Random) -> None:
    junk = chance.choice(
        (b"x", b"PK\x03\x04" + bytes(26), b"PK\x05\x06" + bytes(18), bytes(512), b"PK\x07\x08" + bytes(12))
    )
    kind = chance.randrange(4)
    if kind == 0:
        sample.before = junk
    elif kind == 1:
        sample.after = junk
    elif kind == 2:
        sample.comment = junk
    else:
        member.before = junk


_ARCHIVE: tuple[Callable[[ZipSample, Member, Random], None], ...] = (
    *(_local_field, _central_field, _both_fields, _sizes, _end_field, _wide_end, _rename, _rename, _double),
    *(_remove_member, _order, _method, _payload, _content, _flags, _crc, _extra, _around),
)


# -- safetensors headers -----------------------------------------------------------------------------------------


def _change_header(sample: HeaderSample, chance: Random) -> None:
    """The JSON of the header as a value: one entry changed."""
    try:
        pairs: list[tuple[str, Any]] = json.loads(sample.header, object_pairs_hook=list)
        names = [name for name, value in pairs if isinstance(value, list)]
    except (ValueError, TypeError, RecursionError):
        names = []
    if not names:
        _change_header_text(sample, chance)
        return
    at = chance.randrange(len(pairs))
    name, value = pairs[at]
    kind = chance.randrange(8)
    if kind == 0:
        del pairs[at]
    elif kind == 1:
        pairs.insert(chance.randrange(len(pairs) + 1), (chance.choice(names), value))
    elif kind == 2:
        pairs[at] = (chance.choice(WORDS), value)
    elif kind == 3:
        chance.shuffle(pairs)
    elif isinstance(value, list):
        pairs[at] = (name, _change_entry(value, chance))
    sample.header = _dumped(pairs)
    if chance.random() < 0.2:
        sample.header += b" " * chance.choice((1, 8))


def _change_entry(entry: list[tuple[str, Any]], chance: Random) -> list[tuple[str, Any]]:
    changed = []
    chosen = chance.randrange(len(entry)) if entry else 0
    for place, (key, value) in enumerate(entry):
        if place == chosen:
            if key == "dtype":
                value = chance.choice(("F32", "F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "F4", "C64", "X", "", 3))
            elif isinstance(value, list) and value and chance.random() < 0.8:
                spot = chance.randrange(len(value))
                old = value[spot] if isinstance(value[spot], int) else 0
                value = [*value[:spot], number(chance, old), *value[spot + 1 :]]
            else:
                value = chance.choice(([], [0], [1, 1, 1, 1], [1.5], ["1"], None, {}, True, [[1]], -1))
        changed.append((key, value))
    if chance.random() < 0.1:
        changed.append(chance.choice((*changed, ("extra", 1))))
    return changed


def _dumped(pairs: Any) -> bytes:
    """JSON text of nested lists of pairs, doubled keys and all."""
    if isinstance(pairs, list) and pairs and all(isinstance(pair, tuple) for pair in pairs):
        return b"{" + b",".join(json.dumps(key).encode() + b":" + _dumped(value) for key, value in pairs) + b"}"
    return json.dumps(pairs).encode()


def _change_header_text(sample: HeaderSample, chance: Random) -> None:
    kind = chance.randrange(6)
    if kind == 0:
        sample.header = change_bytes(sample.header, chance)
    elif kind == 1:
        sample.length = number(chance, len(sample.header))
    elif kind == 2:
        sample.data = change_bytes(sample.data, chance)
    elif kind == 3:
        numbers = list(re.finditer(rb"\d+", sample.header))
        if numbers:
            found = chance.choice(numbers)
            new = str(number(chance, int(found[0][:18]))).encode()
            sample.header = sample.header[: found.start()] + new + sample.header[found.end() :]
    elif kind == 4:
        at = chance.randrange(len(sample.header) + 1)
        words = (
            b"{",
            b"}",
            b"[",
            b"]",
            b'"',
            b",",
            b":",
            b"\\u0000",
            b"\\ud800",
            b"\xff",
            b"1e9",
            b"NaN",
            b"[" * 200,
            b" ",
        )
        sample.header = sample.header[:at] + chance.choice(words) + sample.header[at:]
    else:
        sample.data = sample.data[: chance.randrange(len(sample.data) + 1)] + bytes(chance.choice((0, 0, 1, 8)))
