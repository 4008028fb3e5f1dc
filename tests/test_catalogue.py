"""The shipped layouts: each loads, is found by its names, and keeps the promises that code relies on."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptfix
from ckptfix.errors import ExitCode, UsageError
from ckptfix.layouts.catalogue import NAMED, known_layouts, layout_parts
from ckptfix.lora import LORA_NAMES
from ckptfix.reference import ATTENTION_NAMES, BASES

MAPPINGS = Path(ckptfix.__file__).parent / "mappings"
LAYOUTS = {layout.name: layout for layout in known_layouts()}


def test_every_mapping_is_a_layout_of_that_name() -> None:
    assert sorted(LAYOUTS) == sorted(path.stem for path in MAPPINGS.glob("*.toml"))
    assert [layout.origin for layout in known_layouts()] == [f"{layout.name}.toml" for layout in known_layouts()]


def test_no_name_means_two_layouts() -> None:
    """But flux-xlabs, which alone is the file that XLabs publishes, and joined to others its names of the pairs."""
    names = [name for layout in known_layouts() for name in (layout.name, *layout.aliases)] + list(NAMED)
    assert [name for name in names if names.count(name) > 1] == ["flux-xlabs"] * 2
    assert [layout.name for layout in layout_parts("flux-xlabs").values()] == ["xlabs", "linear", "flux-xlabs"]
    assert [layout.name for layout in layout_parts("flat-st+flux-xlabs").values()] == ["flat-st", "flux-xlabs"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_layout_writes_is_an_adapter(name: str) -> None:
    """A projection's right side is all of its family, no more and no less; an attention scheme's both pairs."""
    layout = LAYOUTS[name]
    written = sorted(template.text for rule in layout.rules if not rule.read_only for template in rule.canonical)
    if layout.kind == "projection":
        assert spread(written) == sorted(layout.family.shapes)
    elif layout.kind == "attention":
        pairs = BASES[layout.numbering.base].names if layout.numbering.base else ATTENTION_NAMES
        assert spread(written) in (sorted(pairs), sorted(pairs + LORA_NAMES))
    else:
        assert all(text.startswith(("image_proj.{rest}", "ip_adapter.")) for text in written)
        assert layout.kind == "wrapper"


def spread(texts: list[str]) -> list[str]:
    return sorted(
        text.replace("{param}", param)
        for text in texts
        for param in (("weight", "bias") if "{param}" in text else ("",))
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_layout_requires_it_also_explains(name: str) -> None:
    layout = LAYOUTS[name]
    for template in layout.signature.require:
        sample = template.fill({"block": "0", "param": "weight", "site": "1", "adapter": "0", "rest": "x"})
        assert layout.index.match(sample) or layout.drop_index.match(sample), template.text


def test_names_of_the_contract() -> None:
    assert {layout.name for layout in layout_parts("canonical").values()} == {"flat-st", "resampler", "odd"}
    assert {layout.name for layout in layout_parts("instantid").values()} == {"nested-bin", "resampler", "odd"}
    for name in ("resampler-queries", "resampler-v-first", "resampler-dim-major", "resampler-split-kv"):
        assert list(layout_parts(name)) == ["projection"]
    parts = layout_parts("odd+nested-bin+resampler-split-kv")
    assert {kind: layout.name for kind, layout in parts.items()} == {
        "attention": "odd",
        "wrapper": "nested-bin",
        "projection": "resampler-split-kv",
    }


@pytest.mark.parametrize("name", ["", "x", "nested-bin+", "nested-bin+x", "canonical+odd", "NESTED-BIN"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UsageError, match="unknown layout") as caught:
        layout_parts(name)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "known layouts: canonical, instantid, flux-xlabs, bare-attention, " in caught.value.hint


def test_two_of_a_kind() -> None:
    with pytest.raises(UsageError) as caught:
        layout_parts("odd+unet-path")
    assert str(caught.value) == "odd and unet-path are two of a kind (attention)"
