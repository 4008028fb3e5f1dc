"""Who an adapter is, from its tensors alone, and from its bytes where nothing else can tell."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import pytest

from ckptfix import known_files
from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.families.known import adapter_tensors
from ckptfix.identity import Identity, identify
from ckptfix.inspection import inspect
from ckptfix.known_files import KnownFile, recognise
from ckptfix.lora import lora_shapes
from ckptfix.products import PRODUCTS
from ckptfix.reference import UNETS
from tests.fixtures.adapters import adapter, manifest_from, save, tiny


def identity(product: str, source: str = "adapter.bin") -> Identity:
    return identify(plan_for(manifest_from(rows_of(product), "safetensors", source)))


def rows_of(product: str) -> list[tuple[tuple[str, ...], str, tuple[int, ...]]]:
    known = PRODUCTS[product]
    tensors = adapter_tensors(known.config)
    if known.lora:
        tensors |= lora_shapes(UNETS[known.config.unet or ""].sites, {}, known.config.token_width, 128)
    return [((name,), "F16", shape) for name, shape in tensors.items()]


@pytest.mark.parametrize(
    ("product", "parameters"),
    [
        ("faceid-sd15", 48_354_816),
        ("faceid-sdxl", 535_507_968),
        ("faceid-plus-sd15", 78_260_736),
        ("faceid-plusv2-sdxl", 743_707_648),
    ],
)
def test_with_its_lora_a_product_has_its_published_number_of_parameters(product: str, parameters: int) -> None:
    assert sum(math.prod(shape) for _, _, shape in rows_of(product)) == parameters
    plan = plan_for(manifest_from(rows_of(product), "safetensors"))
    assert (plan.refused, plan.choice.attention.name if plan.choice.attention else "") == (False, "odd+lora")
    assert plan_findings(plan) == ()
    bare = [row for row in rows_of(product) if "_lora." not in row[0][0]]
    assert [finding.code for finding in plan_findings(plan_for(manifest_from(bare, "safetensors")))] == ["no-lora"]


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product_by_its_manifest_alone(product: str) -> None:
    found = identity(product)
    facts = {fact.name: (fact.value, fact.status) for fact in found.facts}
    known = PRODUCTS[product]
    assert (found.family, found.variant) == (known.family, known.described)
    assert facts["encoder"] == (known.encoder, "inferred")
    assert facts["base"] == (found.base, "inferred")
    assert facts["variant"] == (known.described, "inferred")
    if known.config.tokens:
        assert facts["tokens"] == (known.config.tokens, "confirmed")
    for name, size in known.config.to_dict().items():
        assert facts[name] == (size, "assumed" if name in ("heads", "dim_head") else "confirmed")
    assert ("twins" in facts) is bool(known.twins)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", ["ip-adapter-faceid-plusv2_sdxl.bin", "unnorm.bin", "kolors\n.safetensors"])
def test_the_name_of_the_file_changes_nothing(product: str, name: str) -> None:
    assert identity(product, name) == identity(product)


@pytest.mark.parametrize("product", ["kolors", "kolors-faceid-plus"])
def test_the_unet_of_kolors_is_sdxl_s_and_the_base_is_not(product: str) -> None:
    found = identity(product)
    assert found.base == "Kolors (the UNet of SDXL)"
    assert {(fact.value, fact.status) for fact in found.facts if fact.name == "base"} == {(found.base, "inferred")}


def test_the_twins_are_said_to_be_indistinguishable() -> None:
    assert "IP-Adapter FaceID portrait SDXL unnorm" in identity("instantid").variant
    assert "PlusV2, which is run with shortcut=True" in identity("faceid-plus-sd15").variant


def test_sizes_of_ones_own_have_a_family_but_no_product(tmp_path: Path) -> None:
    found = inspect(save(tmp_path / "a.safetensors", tiny(1).layout("flat-st")))
    assert found.variant == "in sizes of its own"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file that the registry knows."""
    path = save(tmp_path / "published.bin", adapter(seed=4).layout())
    data = path.read_bytes()
    known = KnownFile("instantid", "this very file", len(data), hashlib.sha256(data).hexdigest(), "tests")
    monkeypatch.setattr(known_files, "known_files", lambda: (known,))
    return path


def test_only_bytes_tell_twins_apart(tmp_path: Path, published: Path) -> None:
    copy = shutil.copy(published, tmp_path / "portrait-unnorm.bin")
    found = inspect(copy, checksums=True)
    assert found.variant == "InstantID: this very file"
    assert {fact.name: fact.status for fact in found.facts}["variant"] == "confirmed"
    assert "twins" not in {fact.name for fact in found.facts}
    assert found.findings == ()


def test_without_checksums_nothing_is_hashed_and_the_size_is_a_hint(published: Path) -> None:
    found = inspect(published)
    assert "this very file" not in found.variant
    (finding,) = found.findings
    assert (finding.code, finding.severity) == ("published-file", "note")
    assert finding.hint == f"its sha256 tells: ckptfix inspect --checksums {published}"


def test_the_same_size_is_not_the_same_file(published: Path) -> None:
    data = bytearray(published.read_bytes())
    place = data.index(b"\x00" * 8)
    data[place] ^= 1  # in the padding before a record: no tensor changes
    published.write_bytes(data)
    assert recognise(published, len(data)) is None


def test_another_size_is_not_even_read(tmp_path: Path) -> None:
    assert recognise(tmp_path / "is not there", 17) is None


def test_the_registry_names_products() -> None:
    (instantid,) = (known for known in known_files.known_files() if known.product == "instantid")
    assert (instantid.bytes, instantid.sha256[:8]) == (1_691_134_141, "02b3618e")
    assert all(known.product in PRODUCTS and len(known.sha256) == 64 for known in known_files.known_files())
