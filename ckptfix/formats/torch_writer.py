"""Writes what `torch.save` writes, without torch: a zip archive with a pickled dict and one record per tensor.

`torch.load` with `weights_only=True`, plain and with `mmap=True`, opens the result.

The archive is the standard library's `zipfile`: stored records, true CRCs, zip64 past 2 GiB, and, since the target can
seek, sizes and CRC in the local header too, where torch leaves zeros and a data descriptor.
Sources: pytorch, caffe2/serialize/inline_container.cc (records, alignment, their order), torch/serialization.py
(`_save`), torch/_tensor.py (`_reduce_ex_internal`: the arguments of the two rebuild functions).
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, TypeAlias

from ckptfix.formats.output import OutputTensor, copy_tensor
from ckptfix.manifest import dense_strides

Tree: TypeAlias = "dict[str, Tree | OutputTensor]"

# Tensors of these dtypes are pickled as a typed storage and `_rebuild_tensor_v2`.
# Source: pytorch, torch/storage.py, `_dtype_to_storage_type_map`.
_TYPED_STORAGE = {
    "F64": "DoubleStorage",
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I16": "ShortStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
    "C64": "ComplexFloatStorage",
}
# The others have no legacy class: an untyped storage, `_rebuild_tensor_v3`, and the dtype as a last argument.
# Source: pytorch, torch/storage.py, `_new_dtypes`.

_ALIGNMENT = 64
_LOCAL_HEADER = 30  # bytes before the name; PKWARE APPNOTE.TXT 4.3.7
_ZIP64_EXTRA = 20  # bytes that zipfile appends to the extra field of a large record
_PADDING_ID = b"FB"  # torch's own header id for the extra field that holds nothing but padding


def write_torch_zip(
    stream: BinaryIO,
    tensors: Sequence[OutputTensor],
    *,
    nesting: Mapping[str, tuple[str, ...]],
    archive: str = "archive",
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write one archive from the start of a seekable, empty, buffered stream and return its size in bytes.

    `nesting` gives for each tensor's name the dictionary keys that lead to it: `("image_proj", "latents")`. Dicts and
    their keys come in the order in which the tensors name them. `archive` is the folder inside the zip; torch puts
    the file's stem there. `progress` gets the bytes of each piece of tensor data. Same input, same bytes.
    """
    tree = _nest(tensors, nesting)
    pickled, ordered = _pickle(tree)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as zipped:
        records = _Records(zipped, stream, archive)
        records.write("data.pkl", len(pickled), lambda write: write(pickled))
        records.write("byteorder", 6, lambda write: write(b"little"))
        for key, tensor in enumerate(ordered):

            def data(write: Callable[[bytes | memoryview], object], tensor: OutputTensor = tensor) -> None:
                copy_tensor(tensor, write, progress)

            records.write(f"data/{key}", tensor.nbytes, data)
        records.write("version", 2, lambda write: write(b"3\n"))
        identity = _serialization_id(zipped)
        records.write(".data/serialization_id", len(identity), lambda write: write(identity))
    return stream.tell()


class _Records:
    """The records of one archive, each beginning at a multiple of 64 bytes so that it can be mapped."""

    def __init__(self, zipped: zipfile.ZipFile, stream: BinaryIO, archive: str) -> None:
        self._zipped = zipped
        self._stream = stream
        self._archive = archive

    def write(self, name: str, size: int, fill: Callable[[Callable[[bytes | memoryview], object]], object]) -> None:
        info = zipfile.ZipInfo(f"{self._archive}/{name}", (1980, 1, 1, 0, 0, 0))
        info.create_system = 3  # the same on every system
        large = size > zipfile.ZIP64_LIMIT
        fixed = _LOCAL_HEADER + len(info.filename.encode()) + len(_PADDING_ID) + 2 + _ZIP64_EXTRA * large
        padding = -(self._stream.tell() + fixed) % _ALIGNMENT
        info.extra = _PADDING_ID + struct.pack("<H", padding) + b"Z" * padding
        with self._zipped.open(info, "w", force_zip64=large) as record:
            fill(record.write)
        info.extra = b""  # the central directory, written last, needs no padding


def _serialization_id(zipped: zipfile.ZipFile) -> bytes:
    """40 digits that stand for names, sizes and checksums of the records so far. torch makes its own from the same
    facts and reads it back as an opaque text."""
    facts = [(info.filename, info.file_size, info.CRC) for info in zipped.infolist()]
    digest = int.from_bytes(hashlib.sha256(repr(facts).encode()).digest(), "big")
    return b"%040d" % (digest % 10**40)


def _nest(tensors: Sequence[OutputTensor], nesting: Mapping[str, tuple[str, ...]]) -> Tree:
    tree: Tree = {}
    for tensor in tensors:
        *parents, last = nesting[tensor.name]
        branch = tree
        for key in parents:
            child = branch.setdefault(key, {})
            if isinstance(child, OutputTensor):
                raise AssertionError(f"{tensor.name}: {key!r} is a tensor and cannot hold another")
            branch = child
        if last in branch:
            raise AssertionError(f"{tensor.name}: its place {nesting[tensor.name]} is taken")
        branch[last] = tensor
    return tree


def _pickle(tree: Tree) -> tuple[bytes, list[OutputTensor]]:
    """The pickle of a nested dict, and its tensors in the order of their storage keys."""
    pickler = _Pickler()
    ordered: list[OutputTensor] = []
    pickler.emit(b"\x80\x02")  # PROTO 2
    pickler.emit(b"}(")  # EMPTY_DICT MARK
    pending: list[Iterator[tuple[str, Tree | OutputTensor]]] = [iter(tree.items())]
    while pending:
        for key, value in pending[-1]:
            pickler.text(key)
            if isinstance(value, OutputTensor):
                pickler.tensor(value, str(len(ordered)))
                ordered.append(value)
            else:
                pickler.emit(b"}(")
                pending.append(iter(value.items()))
                break
        else:
            pickler.emit(b"u")  # SETITEMS
            pending.pop()
    pickler.emit(b".")  # STOP
    return pickler.getvalue(), ordered


class _Pickler:
    """Emits the few opcodes of pickle protocol 2 that a dict of tensors needs. Opcodes: CPython, Lib/pickletools.py."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._memo: dict[bytes, int] = {}  # only globals and constants: far below BINPUT's 256

    def getvalue(self) -> bytes:
        return b"".join(self._parts)

    def emit(self, opcodes: bytes) -> None:
        self._parts.append(opcodes)

    def text(self, text: str) -> None:
        encoded = text.encode()
        self.emit(b"X" + struct.pack("<I", len(encoded)) + encoded)  # BINUNICODE

    def constant(self, text: str) -> None:
        encoded = text.encode()
        self._once(b"X" + struct.pack("<I", len(encoded)) + encoded)

    def name(self, module: str, name: str) -> None:
        self._once(f"c{module}\n{name}\n".encode())  # GLOBAL

    def _once(self, opcodes: bytes) -> None:
        """Emit and memoise at the first use, refer to the memo later."""
        if opcodes in self._memo:
            self.emit(b"h" + bytes([self._memo[opcodes]]))  # BINGET
        else:
            self._memo[opcodes] = len(self._memo)
            self.emit(opcodes + b"q" + bytes([self._memo[opcodes]]))  # BINPUT

    def integer(self, number: int) -> None:
        if number < 2**8:
            self.emit(b"K" + struct.pack("<B", number))  # BININT1
        elif number < 2**31:
            self.emit(b"J" + struct.pack("<i", number))  # BININT
        else:
            encoded = number.to_bytes(number.bit_length() // 8 + 1, "little")
            self.emit(b"\x8a" + bytes([len(encoded)]) + encoded)  # LONG1

    def integers(self, numbers: Sequence[int]) -> None:
        self.emit(b"(")  # MARK
        for number in numbers:
            self.integer(number)
        self.emit(b"t")  # TUPLE

    def tensor(self, tensor: OutputTensor, key: str) -> None:
        """rebuild(storage, offset 0, size, stride, requires_grad False, OrderedDict() of hooks[, dtype])."""
        typed = _TYPED_STORAGE.get(tensor.dtype.name)
        self.name("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self.emit(b"((")  # MARK MARK
        self.constant("storage")
        if typed:
            self.name("torch", typed)
        else:
            self.name("torch.storage", "UntypedStorage")
        self.text(key)
        self.constant("cpu")
        self.integer(tensor.nbytes // tensor.dtype.itemsize if typed else tensor.nbytes)
        self.emit(b"tQ")  # TUPLE BINPERSID
        self.integer(0)
        self.integers(tensor.shape)
        self.integers(dense_strides(tensor.shape))
        self.emit(b"\x89")  # NEWFALSE
        self.name("collections", "OrderedDict")
        self.emit(b")R")  # EMPTY_TUPLE REDUCE
        if not typed:
            self.name("torch", tensor.dtype.torch)
        self.emit(b"tR")  # TUPLE REDUCE
