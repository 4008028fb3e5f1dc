"""The shipped JSON Schemas: valid, one per document, and true of what every command prints, errors included."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.adapters import adapter, write
from tests.calling import call
from tests.fixtures.make_checkpoints import canonical, renamed, save_nested_bin, without
from tests.onnx_models import write_pack

SCHEMAS: dict[str, dict[str, Any]] = {
    entry.name: json.loads(entry.read_text(encoding="utf-8"))
    for entry in (resources.files("ckptfix") / "schemas").iterdir()
}
PACKAGE = Path(__file__).parents[1] / "ckptfix"


def closed(schema: Any) -> Any:
    """The same schema, in which a key that it does not describe is an error: what is printed must be described."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    stricter = {key: closed(part) for key, part in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema:
        stricter["additionalProperties"] = False
    return stricter


def validator(name: str) -> Draft202012Validator:
    strict = {key: closed(deepcopy(schema)) for key, schema in SCHEMAS.items()}
    if name == "error.json":  # an error may carry details of its own
        strict[name]["properties"]["error"].pop("additionalProperties")
    registry: Registry[Any] = Registry().with_resources(
        (key, Resource.from_contents(schema)) for key, schema in strict.items()
    )
    return Draft202012Validator(strict[name], registry=registry)


def check(document: dict[str, Any]) -> str:
    """Validate a document by the schema that it names; returns that name."""
    found = re.fullmatch(r"ckptfix\.([a-z-]+)/1", document["schema"])
    assert found is not None
    validator(f"{found[1]}.json").validate(document)
    return found[1]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$id"] == name


def test_every_document_has_a_schema() -> None:
    named = {
        match
        for path in PACKAGE.rglob("*.py")
        for match in re.findall(r'"ckptfix\.([a-z-]+)/1"', path.read_text(encoding="utf-8"))
    }
    assert named >= {"inspect", "convert", "verify", "error"}
    assert {f"{name}.json" for name in named} <= SCHEMAS.keys()


def test_inspect(tmp_path: Path) -> None:
    sound = write(tmp_path / "sound.safetensors", adapter())
    broken = renamed(without(canonical(), "image_proj.layers.0.0.to_q.weight"), ".latents", ".queries")
    broken["image_proj.what.is.this"] = broken["image_proj.queries"]
    other = save_nested_bin(tmp_path / "broken.bin", broken)
    no_checkpoint = tmp_path / "page.bin"
    no_checkpoint.write_text("<!doctype html><title>Sign in</title>", encoding="utf-8")
    assert check(call("inspect", "--json", sound).document) == "inspect"
    assert check(call("inspect", "--json", "--values", "--checksums", other).document) == "inspect"
    assert check(call("inspect", "--json", no_checkpoint).document) == "error"
    assert check(call("inspect", "--json", sound, other, no_checkpoint).document) == "inspect-list"
    assert check(call("compat", "--json", sound, no_checkpoint).document) == "compat-list"
    for line in call("inspect", "--ndjson", sound, other, no_checkpoint).out.splitlines():
        assert check(json.loads(line)) in {"inspect", "error"}


def test_convert_and_its_proof(tmp_path: Path) -> None:
    source = save_nested_bin(tmp_path / "a.bin", renamed(canonical(), ".latents", ".queries"))
    cut = save_nested_bin(tmp_path / "b.bin", without(canonical(), "image_proj.layers.0.0.to_q.weight"))
    out = tmp_path / "out.safetensors"
    assert check(call("convert", "--json", source, "-o", out, "--proof").document) == "convert"
    assert check(json.loads((tmp_path / "out.safetensors.proof.json").read_text(encoding="utf-8"))) == "proof"
    assert check(call("convert", "--json", source, "-o", out).document) == "error"
    assert check(call("convert", "--json", cut, "-o", tmp_path / "c.safetensors").document) == "convert"
    assert check(call("convert", "--json", source, "-o", tmp_path / "d", "--dry-run").document) == "convert"


def test_verify(tmp_path: Path) -> None:
    source = write(tmp_path / "sound.safetensors", adapter())
    cut = save_nested_bin(tmp_path / "b.bin", without(canonical(), "image_proj.layers.0.0.to_q.weight"))
    assert check(call("verify", "--json", source).document) == "verify"
    assert check(call("verify", "--json", cut).document) == "verify"
    assert check(call("verify", "--json", tmp_path / "none").document) == "error"


def test_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check(call("generate", "--json", "--base", "tiny", "--dry-run").document) == "generate"
    assert check(call("generate", "--json", "--face", "none.jpg").document) == "error"


def test_explain(tmp_path: Path) -> None:
    source = save_nested_bin(tmp_path / "a.bin", renamed(canonical(), ".latents", ".queries"))
    sizes = "size mismatch for proj_in.weight: copying a param with shape torch.Size([64, 24]) from checkpoint, the "
    text = sizes + "shape in current model is torch.Size([64, 1280]). dim (2048) must be divisible by heads (12)"
    assert check(call("explain", "--json", text).document) == "explain"
    assert check(call("explain", "--json", "--file", source, text).document) == "explain"
    assert check(call("explain", "--json", source).document) == "explain"
    assert check(call("explain", "--json", "nothing that is known").document) == "explain"
    assert check(call("explain", "--json", tmp_path / "none.txt").document) == "error"


def test_doctor(tmp_path: Path) -> None:
    assert check(call("doctor", "--json").document) == "doctor"
    write_pack(tmp_path / "antelopev2" / "antelopev2")
    assert check(call("doctor", "faces", tmp_path, "--json").document) == "doctor-faces"
    assert check(call("doctor", "faces", tmp_path, "--fix", "--json").document) == "doctor-faces"
    assert check(call("doctor", "faces", tmp_path / "none", "--json").document) == "error"


def test_layouts() -> None:
    assert check(call("layouts", "--json").document) == "layouts"
    assert check(call("layouts", "--json", "resampler-split-kv+odd").document) == "layouts"
    assert check(call("layouts", "--json", "nothing-like-it").document) == "error"


def test_diff(tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", canonical())
    second = write(tmp_path / "b.safetensors", without(canonical(), "image_proj.latents"))
    assert check(call("diff", "--json", first, first).document) == "diff"
    assert check(call("diff", "--json", first, second).document) == "diff"
    assert check(call("diff", "--json", first, tmp_path / "none").document) == "error"
