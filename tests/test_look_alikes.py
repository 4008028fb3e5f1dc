"""What looks like an adapter and is none is refused by name, whatever wraps it; adapters are never taken for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptfix.conversion import convert
from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.errors import ExitCode
from ckptfix.families.known import adapter_tensors
from ckptfix.inspection import inspect
from ckptfix.look_alikes import LOOK_ALIKES, look_alike
from ckptfix.products import PRODUCTS
from tests.families import SMALL, SPELLINGS, adapter, pairs, prefixed, projection
from tests.fixtures.adapters import DETECTED, WRAPPERS, Arrays, Memory, container_of, tiny
from tests.look_alike_samples import SAMPLES, WHOLE

ROWS = {row.name: row for row in LOOK_ALIKES}


def test_every_row_has_a_sample() -> None:
    assert SAMPLES.keys() | WHOLE.keys() == ROWS.keys()


def refused(tmp_path: Path, arrays: Arrays, title: str) -> str:
    """The one finding of inspect; convert writes nothing, not even when told to drop what it does not know."""
    path, out = tmp_path / "ip-adapter.safetensors", tmp_path / "out.safetensors"
    save_file(arrays, path)
    result = inspect(path)
    assert (result.exit_code, result.repairable) == (ExitCode.PROBLEM, False)
    (finding,) = result.findings
    assert (finding.code, finding.severity) == ("other-model", "error")
    assert finding.message.startswith(f"is {title}, not an adapter that can be converted: ")
    for drop in (False, True):
        conversion = convert(path, out, drop_unexplained=drop, partial=drop)
        assert (conversion.refused, conversion.written, out.exists()) == (True, False, False)
    return finding.message


@pytest.mark.parametrize("prefix", ["image_proj.", "image_proj_model.", "module.image_proj.", ""])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_look_alike_is_refused_by_name(tmp_path: Path, name: str, prefix: str) -> None:
    arrays = {prefix + key: array for key, array in SAMPLES[name].items()}
    if prefix == "image_proj.":
        arrays |= prefixed({}, pairs(28))
    message = refused(tmp_path, arrays, ROWS[name].title)
    assert "it holds " in message and ROWS[name].why in message
    assert any(key in message for key in arrays)


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, name: str) -> None:
    refused(tmp_path, WHOLE[name], ROWS[name].title)


def test_clipface_has_the_names_of_faceid_and_is_told_by_its_norm(tmp_path: Path) -> None:
    arrays = adapter(SMALL["mlp-faceid"])
    arrays |= {f"image_proj.norm.{part}": np.ones(20, np.float32) for part in ("weight", "bias")}
    message = refused(tmp_path, arrays, "ai-toolkit's MLPProjModelClipFace")
    assert message.endswith("and not behind them (here id_dim 20, output_dim 20)")


def test_no_adapter_is_taken_for_a_look_alike() -> None:
    for product in PRODUCTS.values():
        assert look_alike(adapter_tensors(product.config), adapter_tensors(product.config)) is None
    for layout, (name, spelling) in SPELLINGS.items():
        names = list(prefixed(spelling(projection(SMALL[name])), pairs(28)))
        assert look_alike(names, names) is None, layout
    for wrapper in WRAPPERS:
        for name in DETECTED:
            memory = Memory.of(tiny(2).layout(wrapper, name, "unet-path"), container_of(wrapper))
            assert look_alike(memory.manifest.tensors, memory.manifest.tensors) is None, (wrapper, name)


@pytest.mark.parametrize("config", ["positions", "pooled", "positions-and-pooled"])
def test_a_resampler_with_its_options_on_stays_itself(tmp_path: Path, config: str) -> None:
    """Kept whole, never called canonical: stock loaders would leave its options out without a word."""
    arrays = adapter(SMALL[config])
    plan = plan_for(Memory.of(dict(arrays), "safetensors").manifest)
    assert (plan.choice.name, plan.config) == ("flat-st+resampler-posemb+odd", SMALL[config])
    (finding,) = plan_findings(plan)
    assert (finding.code, finding.severity) == ("unread-parts", "warning")
    save_file(arrays, tmp_path / "a.safetensors")
    result = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (result.written, len(result.ledger)) == (True, len(arrays))
    assert result.target == "flat-st+resampler-posemb+odd"
