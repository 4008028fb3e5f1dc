"""What to say of a file that is no checkpoint: what it is instead, and how to get the checkpoint."""

from __future__ import annotations

import re
from typing import Final

from ckptfix.errors import UnreadableError, UnsafeError
from ckptfix.formats.bytesource import ByteSource, LocalFile, read_some
from ckptfix.formats.limits import HEADER_CAP, Limits
from ckptfix.formats.pickle_nodes import PickledDict, PickleError
from ckptfix.formats.pickle_reader import read_pickle
from ckptfix.formats.pickle_tree import describe
from ckptfix.formats.torch_findings import refuse_if_unsafe
from ckptfix.text import plural, printable

_HEAD: Final = 64 << 10
_BLOCK: Final = 512
_ZERO_SCAN: Final = 512 << 20
_STEP: Final = 1 << 20
_REMOTE_SCAN: Final = 1 << 20
_AGAIN: Final = "get the file again"
_SAVE_ANEW: Final = "where it was made, save it with torch.save or safetensors instead of pickle.dump"
_DOWNLOAD: Final = (
    "download the file itself: on Hugging Face use the download button or an address with /resolve/ instead of /blob/, "
    "and log in (hf auth login) if the repository asks for it"
)


def refusal(source: ByteSource, limits: Limits) -> UnreadableError:
    """The error for a file that is no checkpoint. Raises `UnsafeError` for a pickle that calls anything."""
    head = read_some(source, 0, _HEAD)
    for recognise in (_nothing, _lfs_pointer, _by_signature, _web_page, _json):
        found = recognise(source, head)
        if found is not None:
            return found
    found = _foreign_pickle(source, head, limits) or _text(source, head)
    if found is not None:
        return found
    if head[8:9] == b"{":
        declared = int.from_bytes(head[:8], "little")
        return _error(
            source,
            f"looks like safetensors, but declares a header of {declared:,} bytes, over the format's {HEADER_CAP:,}",
            f"{_AGAIN}; its first bytes are damaged",
            "header",
        )
    return _error(
        source,
        f"is no checkpoint: {plural(source.size, 'byte')} of an unknown kind, beginning {head[:16].hex(' ')}",
        f"{_AGAIN}, or check that it is a .bin, .pt, .ckpt or .safetensors file",
    )


def _error(source: ByteSource, message: str, hint: str, code: str = "not-a-checkpoint") -> UnreadableError:
    return UnreadableError(message, hint=hint, code=code, source=source.name)


def _leading_zeros(source: ByteSource) -> int:
    """How many bytes from the start are zero; gives up after reading 512 MiB (1 MiB of a remote file), the holes of a
    sparse file aside."""
    position, left = 0, _REMOTE_SCAN if source.remote else _ZERO_SCAN
    while position < source.size and left > 0:
        if isinstance(source, LocalFile):
            position = source.next_data(position)
        data = read_some(source, position, _STEP)
        kept = len(data.lstrip(b"\0"))
        position += len(data) - kept
        left -= len(data)
        if kept:
            break
    return position


def _nothing(source: ByteSource, head: bytes) -> UnreadableError | None:
    if not head:
        return _error(source, "is empty (0 bytes): the download never started", "download it again", "empty-file")
    if head[:_BLOCK].strip(b"\0"):
        return None
    zeros = _leading_zeros(source)
    if zeros == source.size:
        message = f"holds nothing but zeros ({plural(zeros, 'byte')}): space was set aside, the download did not run"
    else:
        least = "at least " if zeros >= (_REMOTE_SCAN if source.remote else _ZERO_SCAN) else ""
        message = f"begins with {least}{plural(zeros, 'zero byte')} of {source.size:,}: the download is incomplete"
    return _error(source, message, "delete it and download it again", "zero-filled")


def _foreign_pickle(source: ByteSource, head: bytes, limits: Limits) -> UnreadableError | None:
    """A pickle that torch.save did not write: unsafe if it calls anything, else no checkpoint.

    Protocols 0 and 1 have no signature: what reads as a pickle to its end is one.
    """
    try:
        pickled = read_pickle(read_some(source, 0, limits.pickle_bytes), limits=limits)
    except PickleError as error:
        refuse_if_unsafe(error.uses, source.name)
        return _error(source, f"begins like a pickle but is none: {error}", _AGAIN) if head[:1] == b"\x80" else None
    # Pickling a tensor without torch.save wraps the bytes of a torch.save in a call that unpickles them.
    within = ("torch.storage", "_load_from_bytes", "call")
    refuse_if_unsafe({use: at for use, at in pickled.uses.items() if use != within}, source.name)
    if within in pickled.uses:
        raise UnsafeError(
            "is a Python pickle of tensors that torch.save did not write: loading it calls "
            "torch.storage._load_from_bytes, which runs whatever pickles are inside",
            hint=_SAVE_ANEW,
            source=source.name,
            **{"global": "torch.storage._load_from_bytes"},
        )
    root = pickled.root
    what = f"dict of {plural(len(root.items or ()) // 2, 'value')}" if isinstance(root, PickledDict) else describe(root)
    return _error(
        source,
        f"is a Python pickle ({what}), but not one that torch.save wrote",
        _SAVE_ANEW,
    )


def _lfs_pointer(source: ByteSource, head: bytes) -> UnreadableError | None:
    if not head.startswith(b"version https://git-lfs.github.com/spec/"):
        return None
    sha256 = re.search(rb"^oid sha256:([0-9a-f]{64})\s*$", head[:1024], re.MULTILINE)
    size = re.search(rb"^size (\d{1,18})\s*$", head[:1024], re.MULTILINE)
    stands = f"for a file of {int(size[1]):,} bytes" if size else "for a file of unknown size"
    stands += f" with sha256 {sha256[1].decode()}" if sha256 else ""
    return UnreadableError(
        f"is a Git LFS pointer, not the checkpoint: {plural(source.size, 'byte')} of text that stand {stands}",
        hint="fetch the real file: git lfs pull, or download it from its page (an address with /resolve/)",
        code="lfs-pointer",
        source=source.name,
        **({"sha256": sha256[1].decode()} if sha256 else {}),
        **({"bytes": int(size[1])} if size else {}),
    )


def _web_page(source: ByteSource, head: bytes) -> UnreadableError | None:
    text = _decoded(head).lstrip()
    if not re.match(r"<(!doctype\s+html|html|head|body|title)\b", re.sub(r"^(\s*<!--.*?-->)+\s*", "", text), re.I):
        if re.match(r"<\?xml|<[a-z]", text, re.I):
            return _error(source, f"is an XML or markup file, not a checkpoint: {_first_line(text)}", _DOWNLOAD)
        return None
    from html import unescape  # only here: start-up time

    title = re.search(r"<title[^>]{0,200}>(.{0,1000}?)</title", text, re.I | re.S)
    named = f' titled "{printable(" ".join(unescape(title[1]).split()), 100)}"' if title else ""
    return _error(source, f"is a web page{named}, not a checkpoint", _DOWNLOAD, "html-page")


_TAR_ERA = "a tar archive as torch wrote before 0.1.10 (2017), which ckptfix does not read"
_SIGNATURES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"\x04\x22\x4d\x18", "an lz4 archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"GGUF", "a GGUF model (llama.cpp)"),
    (0, b"lmgg", "a GGML model (llama.cpp)"),
    (0, b"\x93NUMPY", "a NumPy array (.npy)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, .h5)"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x7fELF", "a Linux program"),
    (0, b"MZ", "a Windows program"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (257, b"ustar", "a tar archive"),
)


def _by_signature(source: ByteSource, head: bytes) -> UnreadableError | None:
    for offset, signature, what in _SIGNATURES:
        if head[offset : offset + len(signature)] != signature:
            continue
        if what == "a tar archive":
            return _tar(source, head)
        hint = "unpack it and name the checkpoint inside" if "archive" in what else f"{_AGAIN}: this is another file"
        return _error(source, f"is {what}, not a checkpoint", hint)
    if head[:1] == b"\x08" and (b"pytorch" in head[:64] or b"onnx" in head[:256]):
        return _error(source, "is an ONNX model, not a checkpoint", "name the PyTorch or safetensors file instead")
    return None


def _tar(source: ByteSource, head: bytes) -> UnreadableError:
    first = printable(head[:100].split(b"\0")[0].decode("utf-8", "replace"))
    if first.strip("./") in ("sys_info", "pickle", "tensors", "storages"):
        return _error(
            source,
            f"is {_TAR_ERA}",
            "load it with a torch of that time on a machine you can lose, and save it anew with torch.save",
        )
    return _error(
        source,
        f"is a tar archive, not a checkpoint: its first file is {first}",
        "unpack it and name the checkpoint inside",
    )


def _json(source: ByteSource, head: bytes) -> UnreadableError | None:
    text = _decoded(head).lstrip()
    if not re.match(r'(\{\s*("|\}|$)|\[\s*[\[{"\d\]-])', text):
        return None
    if '"weight_map"' in text:
        return _error(
            source,
            "is the index of a checkpoint in several files, not the checkpoint",
            "name the files that it lists",
        )
    message = re.search(r'"(?:error|message|detail|Message)"\s*:\s*"((?:[^"\\]|\\.){1,200})"', text)
    said = f'the error "{printable(message[1])}"' if message else _first_line(text)
    return _error(source, f"is JSON text, not a checkpoint: {said}", _DOWNLOAD)


def _text(source: ByteSource, head: bytes) -> UnreadableError | None:
    sample = head[:512]
    if b"\0" in sample or any(byte < 9 for byte in sample):
        return None
    text = _decoded(sample)
    if text.isascii() or "�" not in text:
        return _error(source, f"is a text file, not a checkpoint: {_first_line(text)}", _DOWNLOAD)
    return None


def _decoded(head: bytes) -> str:
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return head.decode(encoding, "replace")


def _first_line(text: str) -> str:
    return f'"{printable((text.strip().splitlines() or [""])[0], 100)}"'
