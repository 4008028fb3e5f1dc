"""Several files as one checkpoint: names, records and bytes of each part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptfix.errors import UsageError
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.parts import JoinedCheckpoint, open_whole
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View
from tests.fixtures.adapters import save, tiny


def files(tmp_path: Path) -> list[Path]:
    tree = tiny(1).layout()
    return [
        save(tmp_path / "a.bin", {"image_proj": tree["image_proj"]}),
        save(tmp_path / "b.safetensors", {f"ip_adapter.{name}": array for name, array in tree["ip_adapter"].items()}),
    ]


def test_one_file_is_itself(tmp_path: Path) -> None:
    with open_whole([files(tmp_path)[0]]) as checkpoint:
        assert isinstance(checkpoint, Checkpoint)


def test_the_whole_has_the_tensors_of_its_parts(tmp_path: Path) -> None:
    paths = files(tmp_path)
    with open_whole(paths) as joined:
        manifest = joined.manifest
        assert manifest.source == f"{paths[0]} {paths[1]}"
        assert manifest.size == sum(path.stat().st_size for path in paths)
        assert sorted(manifest.tensors) == sorted(tiny(1).canonical())
        assert [part.container for part in manifest.parts] == ["torch-zip", "safetensors"]
        assert [name for part in manifest.parts for name in part.tensors] == list(manifest.tensors)
        for name, array in tiny(1).canonical().items():
            found = b"".join(bytes(chunk) for chunk in view_chunks(joined, View.of(manifest.tensors[name])))
            assert found == array.tobytes()


def test_a_name_in_both_parts_is_told_apart_by_its_file(tmp_path: Path) -> None:
    paths = files(tmp_path)
    other = save(tmp_path / "c.bin", {"image_proj": tiny(1, seed=9).layout()["image_proj"]})
    with open_whole([paths[0], other]) as joined:
        manifest = joined.manifest
        assert len(manifest.tensors) == 2 * len(tiny(1).projection)
        assert [part.tensors["image_proj.latents"].name for part in manifest.parts] == [
            "part 1:image_proj.latents",
            "part 2:image_proj.latents",
        ]


def test_byte_orders_are_not_mixed(tmp_path: Path) -> None:
    paths = files(tmp_path)
    with open_checkpoint(paths[0]) as first, open_checkpoint(paths[1]) as second:
        turned: Any = second
        turned.manifest = replace(second.manifest, byteorder="big")
        with pytest.raises(UsageError, match="one part is big-endian, another little-endian"):
            JoinedCheckpoint([first, turned])
