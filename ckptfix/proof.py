"""OUT.proof.json: sha256 of every tensor, of the source and of the output, so that anybody can check the copy later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import ckptfix
from ckptfix.formats.address import Location, file_name
from ckptfix.tensors.view_bytes import ByteReader, view_chunks
from ckptfix.tensors.views import View

if TYPE_CHECKING:
    from hashlib import _Hash

    from ckptfix.transfer import Transfer

SCHEMA = "ckptfix.proof/1"


class LedgerEntry(Protocol):
    @property
    def output(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def op(self) -> str: ...


def proof_path(out: Path) -> Path:
    return out.with_name(out.name + ".proof.json")


class Prover:
    """Collects the digests of one conversion.

    The source files are hashed while tensors are copied, local ones in a thread of their own (hashlib lets go of the
    interpreter lock), so their digests go into the output's header last, over zeros of the same length.
    """

    def __init__(self, checkpoint: ByteReader, sources: Sequence[Location], transfer: Transfer | None = None) -> None:
        self._checkpoint = checkpoint
        self._sources = sources
        self._transfer = transfer
        self._outputs: dict[str, _Hash] = {}
        self._pool = ThreadPoolExecutor(max_workers=1)
        local = [source for source in sources if isinstance(source, Path)]
        self._files: list[Future[str]] = [self._pool.submit(file_sha256, source) for source in local]

    def __enter__(self) -> Prover:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def source_sha256(self) -> list[str]:
        """Hex digests of the source files, in order; waits for them."""
        here = iter(self._files)
        there = iter(self._transfer.sha256() if self._transfer else ())
        return [next(here).result() if isinstance(source, Path) else next(there) for source in self._sources]

    @property
    def blank_digests(self) -> str:
        """What stands in the header until the digests are known: zeros, as long as they are."""
        return ", ".join("0" * 64 for _ in self._sources)

    def write_digests(self, stream: BinaryIO, path: Path) -> None:
        """Put the digests over the blank ones in the header of the file being written."""
        stream.flush()
        with path.open("rb") as written:
            header = written.read(8 + int.from_bytes(written.read(8), "little"))
        key = b'"source_sha256":"'  # unlike the zeros alone, nothing that a file brings along can look like it
        stream.seek(8 + header.index(key + self.blank_digests.encode()) + len(key))
        stream.write(", ".join(self.source_sha256()).encode())

    def output_digest(self, name: str) -> _Hash:
        """The digest that the comparing pass feeds with the bytes of one output tensor."""
        return self._outputs.setdefault(name, hashlib.sha256())

    def document(self, ledger: Sequence[LedgerEntry], out: Path, size: int) -> str:
        """The JSON text. A tensor that was only renamed has the digest of its output: they were compared."""
        sizes = self._checkpoint.manifest.file_sizes
        inputs = {name for line in ledger for name in line.inputs}
        copied = {line.inputs[0]: line.output for line in ledger if line.op == "rename"}
        digests = {
            name: self._outputs[copied[name]].hexdigest() if name in copied else tensor_sha256(self._checkpoint, name)
            for name in sorted(inputs)
        }
        proof = {
            "schema": SCHEMA,
            "ckptfix_version": ckptfix.__version__,
            "sources": [
                {"name": file_name(source), "bytes": size, "sha256": digest}
                for source, size, digest in zip(self._sources, sizes, self.source_sha256(), strict=True)
            ],
            "output": {"name": out.name, "bytes": size},
            "tensors": [
                {
                    "output": line.output,
                    "sha256": self._outputs[line.output].hexdigest(),
                    "op": line.op,
                    "inputs": [{"name": name, "sha256": digests[name]} for name in line.inputs],
                }
                for line in ledger
            ],
        }
        return json.dumps(proof, indent=1, sort_keys=False) + "\n"


def tensor_sha256(checkpoint: ByteReader, name: str) -> str:
    """sha256 (hex) of one tensor's dense little-endian bytes."""
    digest = hashlib.sha256()
    for chunk in view_chunks(checkpoint, View.of(checkpoint.manifest.tensors[name])):
        digest.update(chunk)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
