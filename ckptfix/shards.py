"""One checkpoint in several files: `model-00001-of-00002.safetensors` and the index that lists them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePath

from ckptfix.errors import UnreadableError, UsageError
from ckptfix.findings import Finding
from ckptfix.formats.address import Location, is_remote, shown
from ckptfix.text import plural, printable, some

INDEX_SUFFIX = ".index.json"  # huggingface_hub and transformers name it so
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\..*)?")
_LARGEST_INDEX = 64 << 20  # bytes
_MOST_SHARDS = 99


def shards_behind(path: Location) -> tuple[Location, ...]:
    """The files that make up one FILE: those that it lists if it is an index here, else itself.

    UnreadableError for an index that is none, or that lists what is not there.
    """
    if isinstance(path, str) or not path.name.endswith(INDEX_SUFFIX) or not path.is_file():
        return (path,)
    names = shards_listed(path)
    shards = tuple(path.with_name(name) for name in names)
    absent = [name for name, shard in zip(names, shards, strict=True) if not shard.is_file()]
    if absent:
        raise UnreadableError(
            f"lists {plural(len(names), 'file')}, of which {len(absent)} not beside it: {some(absent)}",
            hint="get the others too, from the same place, into the same folder",
            code="shard",
            source=str(path),
        )
    return shards


def shards_listed(path: Path) -> list[str]:
    """File names in order, each once. Source: transformers and diffusers, `weight_map` of the index.

    UnreadableError for an index that is none, UsageError for one that cannot be read.
    """
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise _no_index(path, f"is larger than {_LARGEST_INDEX:,} bytes")
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", hint="check its mode", source=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise _no_index(path, "is no JSON text") from error
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise _no_index(path, "has no weight_map of tensors and files")
    names = sorted(set(files.values()))
    strange = [name for name in names if PurePath(name).name != name or "\\" in name or name in ("", ".", "..")]
    if strange:
        raise _no_index(path, f"lists {printable(strange[0])}, which is no name of a file beside it")
    if len(names) > _MOST_SHARDS:
        raise _no_index(path, f"lists {len(names):,} files, over {_MOST_SHARDS}")
    return names


def _no_index(path: Path, problem: str) -> UnreadableError:
    return UnreadableError(
        f"is named as the index of a checkpoint in several files, but {problem}",
        hint="name the checkpoint itself, or get the index again",
        code="not-a-checkpoint",
        source=str(path),
    )


def are_one_set(paths: Iterable[Location]) -> bool:
    """Whether these files, more than one, are by their names shards of one checkpoint."""
    named = [PurePath(shown(path)) for path in paths]
    found = [(path.parent, _SHARD.fullmatch(path.name)) for path in named]
    sets = {(parent, match[1], match[3], match[4]) if match else None for parent, match in found}
    return len(found) > 1 and len(sets) == 1 and None not in sets


def part_of_several(source: str) -> Finding | None:
    """An error for a file that lacks tensors and says in its name that it is one of several."""
    path = PurePath(source)
    found = _SHARD.fullmatch(path.name)
    if found is None:
        return None
    stem, number, total, suffix = found[1], int(found[2]), int(found[3]), found[4] or ""
    if not 1 <= number <= total <= _MOST_SHARDS or total < 2:
        return None
    names = [f"{stem}-{index:05}-of-{total:05}{suffix}" for index in range(1, total + 1)]
    folder = source.rpartition("/")[0]
    files = [f"{folder}/{name}" if is_remote(source) else str(path.with_name(name)) for name in names]
    parts = " ".join(map(shlex.quote, files))
    return Finding(
        "shard",
        "error",
        f"by its name it is part {number} of {total} of one checkpoint",
        f"give all parts together: ckptfix convert {parts} --out fixed.safetensors",
    )
