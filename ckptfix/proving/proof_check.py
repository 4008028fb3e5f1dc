"""Holds a file against the proof that convert wrote beside it: same tensors, same bytes, and from the same source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptfix.errors import UnreadableError, UsageError
from ckptfix.folding import folded
from ckptfix.parts import open_whole
from ckptfix.proof import SCHEMA, file_sha256, tensor_sha256
from ckptfix.proving.checks import Check
from ckptfix.tensors.view_bytes import ByteReader
from ckptfix.text import plural, printable

_MOST_BYTES: Final = 64 << 20
_HINT: Final = "`ckptfix convert FILE --out OUT --proof` writes one as OUT.proof.json"


@dataclass(frozen=True, slots=True)
class Proof:
    """Digests are sha256 in hex, by tensor name; `renamed` leads from an output to the one input it is a copy of.

    `sources` are name and digest of each source file; parts in different folders may bear one name.
    """

    path: Path
    sources: tuple[tuple[str, str], ...]
    outputs: Mapping[str, str]
    inputs: Mapping[str, str]
    renamed: Mapping[str, str]


def read_proof(path: Path) -> Proof:
    """UsageError: no such file. UnreadableError: not a proof."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise UsageError("no such file", hint=_HINT, source=str(path)) from error
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}", hint=_HINT, source=str(path)) from error
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if len(data) > _MOST_BYTES or not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UnreadableError(f"is no proof of the form {SCHEMA}", hint=_HINT, code="proof", source=str(path))
    try:
        return _proof(path, document)
    except (KeyError, TypeError, IndexError) as error:
        raise UnreadableError(
            f"is a proof with a part that cannot be read ({error})", hint=_HINT, code="proof", source=str(path)
        ) from error


def _proof(path: Path, document: dict[str, Any]) -> Proof:
    lines = document["tensors"]
    return Proof(
        path,
        sources=tuple((str(source["name"]), str(source["sha256"])) for source in document["sources"]),
        outputs={str(line["output"]): str(line["sha256"]) for line in lines},
        inputs={str(part["name"]): str(part["sha256"]) for line in lines for part in line["inputs"]},
        renamed={str(line["output"]): str(line["inputs"][0]["name"]) for line in lines if line["op"] == "rename"},
    )


def check_proof(proof: Proof, checkpoint: ByteReader, file: Path) -> Check:
    """Every tensor of the file has the digest that the proof names, and no other is there.

    A source of the name that the proof gives is looked for beside the proof and beside the file; if all of them are
    found, they and their tensors are held against it too.
    """
    names = checkpoint.manifest.tensors
    absent = [name for name in proof.outputs if name not in names]
    extra = [name for name in names if name not in proof.outputs]
    changed = [
        name for name, digest in proof.outputs.items() if name in names and tensor_sha256(checkpoint, name) != digest
    ]
    forged = [name for name, source in proof.renamed.items() if proof.outputs[name] != proof.inputs[source]]
    problems = [
        f"{what}: {folded(group)}"
        for what, group in (
            ("other bytes than the proof names", changed),
            ("named by the proof and absent", absent),
            ("unknown to the proof", extra),
            ("called a copy by the proof, with another digest than its source", forged),
        )
        if group
    ]
    sources, source_problems = _check_sources(proof, file)
    problems += source_problems
    numbers = {"tensors": len(proof.outputs), "sources_checked": len(sources)}
    if problems:
        return Check("proof", "fail", "; ".join(problems), numbers, (*changed, *absent, *extra, *forged))
    named = ", ".join(printable(name) for name, _ in proof.sources)
    told = f"so have those of {named}" if sources else f"{named} is not beside it and was not checked"
    message = f"all {plural(len(proof.outputs), 'tensor')} have the bytes that the proof names; {told}"
    return Check("proof", "pass", message, numbers)


def _check_sources(proof: Proof, file: Path) -> tuple[list[Path], list[str]]:
    """The source files, if all are there, and what is wrong with them."""
    found = [_beside(name, proof.path, file) for name, _ in proof.sources]
    sources = [path for path in found if path is not None]
    if len(set(sources)) < len(proof.sources):
        return [], []
    problems = [
        f"the source {path.name} is another file than the one the proof names"
        for path, digest in zip(sources, (digest for _, digest in proof.sources), strict=True)
        if file_sha256(path) != digest
    ]
    if problems or not sources:
        return sources, problems
    with open_whole(sources) as checkpoint:
        absent = [name for name in proof.inputs if name not in checkpoint.manifest.tensors]
        changed = [
            name
            for name, digest in proof.inputs.items()
            if name not in absent and tensor_sha256(checkpoint, name) != digest
        ]
    if absent or changed:
        problems.append(f"the source's tensors are others than the proof names: {folded([*absent, *changed])}")
    return sources, problems


def _beside(name: str, *files: Path) -> Path | None:
    """A proof may name no place, only a file: a path in it leads nowhere."""
    if not name or Path(name).name != name:
        return None
    return next((path for file in files if (path := file.parent / name).is_file()), None)
