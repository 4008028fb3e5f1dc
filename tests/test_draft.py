"""Names that nothing explains, folded to a mapping: filled in, it converts; and the ten lines of CONTRIBUTING hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from ckptfix.conversion import convert
from ckptfix.errors import MappingError
from ckptfix.inspection import inspect
from ckptfix.layouts.draft import draft_mapping, name_templates
from ckptfix.reference import RESAMPLER_SHAPES
from tests.fixtures.adapters import MANIFESTS, Arrays, save, tiny

ROOT = Path(__file__).parents[1]
WORDS = {
    "latents": "bank",
    "proj_in": "entry",
    "proj_out": "exit",
    "norm_out": "last_norm",
    "layers": "stage",
    "norm1": "seen_norm",
    "norm2": "query_norm",
    "to_q": "ask",
    "to_kv": "facts",
    "to_out": "back",
}


def renamed(name: str) -> str:
    return ".".join(WORDS.get(part, part) for part in name.split("."))


def unknown() -> dict[str, Arrays]:
    """A projection in words of its own, pairs under words of their own by module path."""
    tree = tiny(4).layout("nested-bin", "resampler", "unet-path")
    pairs = {
        name.replace("processor.to_k_ip", "adapter.key").replace("to_v_ip", "value"): array
        for name, array in tree["ip_adapter"].items()
    }
    return {
        "face": {renamed(name): array for name, array in tree["image_proj"].items()},
        "pairs": {name.replace("processor.value", "adapter.value"): array for name, array in pairs.items()},
    }


def filled(line: str) -> str:
    """What a person does: the canonical name on the right."""
    if not line.endswith("names") and not line.endswith("name"):
        return line
    left = line.split('"')[1]
    back = {word: name for name, word in WORDS.items()}
    right = ".".join(back.get(part, part) for part in left.split(".")).replace("face.", "image_proj.")
    right = right.replace("pairs.{site}.adapter.key", "ip_adapter.{site}.to_k_ip")
    return f'"{left}" = "{right.replace("pairs.{site}.adapter.value", "ip_adapter.{site}.to_v_ip")}"'


def test_the_draft_filled_in_converts(tmp_path: Path) -> None:
    source = save(tmp_path / "own.bin", unknown())
    found = inspect(source)
    assert (found.plan.known, found.to_dict()["mapping_draft"]) == (False, found.draft)
    tomllib.loads("\n".join(found.draft))
    mapping = tmp_path / "mine.toml"
    mapping.write_text("\n".join(found.draft))
    with pytest.raises(MappingError, match="is no canonical name"):
        convert(source, tmp_path / "out.safetensors", mapping=mapping)
    mapping.write_text("\n".join(map(filled, found.draft)))
    assert not convert(source, tmp_path / "out.safetensors", mapping=mapping).refused
    assert {name: array.tobytes() for name, array in load_file(tmp_path / "out.safetensors").items()} == {
        name: array.tobytes() for name, array in tiny(4).canonical().items()
    }


def test_a_file_that_something_explains_has_no_draft(tmp_path: Path) -> None:
    source = save(tmp_path / "a.bin", tiny(1).layout())
    assert inspect(source).draft == []
    assert inspect(source, layout="diffusers-plus").draft == []


@pytest.mark.parametrize(
    ("names", "templates"),
    [
        (["a.0.w", "a.1.w"], {"a.{block}.w": 2}),
        (["a.0.w", "a.0.v"], {"a.0.w": 1, "a.0.v": 1}),
        ([f"kv.{n}.key" for n in range(1, 33, 2)], {"kv.{site}.key": 16}),
        (["a.0.norm1.weight", "a.0.norm1.bias", "a.1.norm1.weight", "a.1.norm1.bias"], {"a.{block}.norm1.{param}": 4}),
        (
            ["a.0.norm1.bias", "a.1.norm2.bias", "a.2.norm1.bias"],
            {"a.{block}.norm1.bias": 2, "a.{block}.norm2.bias": 1},
        ),
        (["down_blocks.1.attentions.0.transformer_blocks.0.attn2.k"], {"{site}.k": 1}),
        (["a.{x}.w", "a.\u202e", "b"], {"b": 1}),
        ([f"a.{n}.{n % 7}.w" for n in range(2_000)], {f"a.{{site}}.{n}.w": 286 - (n > 4) for n in range(7)}),
        ([], {}),
    ],
)
def test_templates(names: list[str], templates: dict[str, int]) -> None:
    assert {template: len(members) for template, members in name_templates(names).items()} == templates


def test_hostile_names_are_left_out() -> None:
    names = [f"{'a.' * 5_000}{number}" for number in range(3_000)] + ['quote".\\back' + str(n) for n in range(2)]
    (template,) = tomllib.loads("\n".join(draft_mapping(names)))["rename"]
    assert template == 'quote".\\back{block}'


MADE_UP = """
[layout]
name  = "made-up"
title = "The resampler in words of its own"
kind  = "projection"
seen  = ["tests/test_draft.py"]

[signature]
require = ["image_proj.bank", "image_proj.stage.{block}.0.facts.weight"]

[rename]
"""


def test_a_new_layout_takes_one_mapping_and_one_manifest(tmp_path: Path) -> None:
    """As CONTRIBUTING.md says: in a copy of the project, two files more, and its own tests find the layout."""
    for folder in ("ckptfix", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    rules = [f'"{renamed(name)}" = "{name}"' for name in RESAMPLER_SHAPES]
    (tmp_path / "ckptfix" / "mappings" / "made-up.toml").write_text(MADE_UP + "\n".join(rules))
    lines = (MANIFESTS / "nested-bin+resampler+odd.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.partition(" ") for line in lines]
    manifest = [renamed(name) + space + rest for name, space, rest in rows]
    (tmp_path / "tests/fixtures/manifests/nested-bin+made-up+odd.txt").write_text("\n".join(manifest))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "made-up", "tests/test_detection.py",
         "tests/test_catalogue.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
    assert " passed" in run.stdout
