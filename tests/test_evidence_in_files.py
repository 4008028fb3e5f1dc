"""Evidence in the weights as inspect and verify tell it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptfix.compatibility import compat
from ckptfix.conversion import convert
from ckptfix.evidence.asking import Attention
from ckptfix.inspection import inspect
from ckptfix.report.inspection_page import inspection_page
from ckptfix.verification import verify
from tests.adapters import write
from tests.trained import (
    ONE_TOKEN,
    REDUNDANT,
    UNTRAINED,
    adapter,
    dim_major,
    interleaved,
    kv_dim_major,
    trained,
    v_first,
)

DECLARED: Any = {"heads": 4, "dim_head": 32}
CONSISTENT = (
    "the weights are consistent with K-first rows (Z 63, next 22)",
    "the weights are consistent with head-major-32 rows (Y 46, next 29)",
)


@pytest.fixture(scope="module")
def canonical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("trained") / "canonical.safetensors", adapter(ONE_TOKEN))


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("trained") / "swapped.safetensors", adapter(ONE_TOKEN, v_first))


def test_only_values_are_asked(canonical: Path) -> None:
    plain = inspect(canonical, **DECLARED)
    assert plain.evidence is None
    assert "evidence" not in plain.to_dict()
    result = inspect(canonical, values=True, **DECLARED)
    assert result.evidence is not None
    assert tuple(answer.sentence for answer in result.evidence) == CONSISTENT
    assert result.to_dict()["evidence"] == [answer.to_dict() for answer in result.evidence]
    assert [finding for finding in result.findings if finding.severity != "note"] == []
    assert result.next_command == f"ckptfix verify {canonical}"


def test_the_page_says_it(canonical: Path) -> None:
    page = inspection_page(inspect(canonical, values=True, **DECLARED), 100)
    text = "\n".join("".join(text for text, _ in line) for line in page.lines)
    assert f"\nEvidence in the weights\n  {CONSISTENT[0]}\n  {CONSISTENT[1]}\n" in text


def test_progress_names_the_stage(canonical: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    inspect(canonical, values=True, **DECLARED, progress=lambda *step: stages.append(step))
    assert [step for step in stages if step[0] == "row order"] == [("row order", done, 8) for done in range(1, 9)]


def test_a_contradiction_is_a_warning_with_the_layout_to_use(swapped: Path, tmp_path: Path) -> None:
    result = inspect(swapped, values=True, **DECLARED)
    finding = next(finding for finding in result.findings if finding.code == "head-layout")
    command = f"ckptfix convert {swapped} --layout resampler-v-first --heads 4 --dim-head 32 --out fixed.safetensors"
    assert finding.to_dict() == {
        "code": "head-layout",
        "severity": "warning",
        "tensors": [],
        "expected": "k-first",
        "found": "v-first",
        "message": "the weights contradict K-first: they agree with V-first (Z 63, next 22)",
        "hint": command,
    }
    assert (result.next_command, result.exit_code) == (command, 1)
    convert(swapped, tmp_path / "fixed.safetensors", layout="resampler-v-first", **DECLARED)
    fixed = inspect(tmp_path / "fixed.safetensors", values=True, **DECLARED)
    assert tuple(answer.sentence for answer in fixed.evidence or ()) == CONSISTENT


def test_the_assumed_head_count_is_contradicted_too(tmp_path: Path) -> None:
    """128 = 2 heads of 64 unless declared otherwise."""
    arrays = adapter(ONE_TOKEN, partial(interleaved, width=32, first="kv"))
    path = write(tmp_path / "both.safetensors", arrays)
    command = (
        f"ckptfix convert {path} --layout resampler-interleaved-kv --heads 4 --dim-head 32 --out fixed.safetensors"
    )
    findings = [finding for finding in inspect(path, values=True).findings if finding.code == "head-layout"]
    assert [finding.hint for finding in findings] == [command, command]
    assert [(finding.expected, finding.found) for finding in findings] == [
        ("k-first", "interleaved-kv-32"),
        ("head-major-64", "head-major-32"),
    ]


def test_a_declared_head_count_is_declared_again(tmp_path: Path) -> None:
    """Heads of 64 would be assumed without it, and the rows put in another order."""
    path = write(tmp_path / "kv.safetensors", adapter(ONE_TOKEN, partial(interleaved, width=32, first="kv")))
    finding = next(found for found in inspect(path, values=True, **DECLARED).findings if found.code == "head-layout")
    command = (
        f"ckptfix convert {path} --layout resampler-interleaved-kv --heads 4 --dim-head 32 --out fixed.safetensors"
    )
    assert finding.hint == command


def test_a_wrong_head_count_alone_needs_another_declaration(canonical: Path) -> None:
    result = inspect(canonical, values=True)
    finding = next(finding for finding in result.findings if finding.code == "head-layout")
    assert finding.hint == f"ckptfix verify {canonical} --heads 4 --dim-head 32"
    assert finding.message == ("the weights contradict head-major-64: they agree with head-major-32 (Y 46, next 29)")


def test_an_order_without_a_layout_is_not_advised_away(tmp_path: Path) -> None:
    path = write(tmp_path / "kv.safetensors", adapter(ONE_TOKEN, partial(kv_dim_major, width=32)))
    result = inspect(path, values=True, **DECLARED)
    finding = next(finding for finding in result.findings if finding.code == "head-layout")
    assert finding.found == "kv-dim-major-32"
    assert finding.hint == "no layout here reorders such rows: get the file from where it was made"
    assert result.next_command == ""


@pytest.mark.parametrize(
    ("layout", "order", "heads"),
    [
        ("resampler-v-first", "v-first", "head-major-32"),
        ("resampler-interleaved-kv", "interleaved-kv-32", "head-major-32"),
        ("resampler-dim-major", "k-first", "dim-major-32"),
    ],
)
def test_declared_layouts_are_judged_in_the_order_of_the_file(
    layout: str, order: str, heads: str, tmp_path: Path, canonical: Path
) -> None:
    reorders: dict[str, Callable[[Attention], Attention]] = {
        "v-first": v_first,
        "interleaved-kv-32": partial(interleaved, width=32, first="kv"),
        "k-first": partial(dim_major, width=32),
    }
    path = write(tmp_path / "declared.safetensors", adapter(ONE_TOKEN, reorders[order]))
    right = inspect(path, values=True, layout=layout, **DECLARED)
    assert [(answer.verdict, answer.declared) for answer in right.evidence or ()] == [
        ("consistent", order),
        ("consistent", heads),
    ]
    wrong = inspect(canonical, values=True, layout=layout, **DECLARED)
    assert {answer.layout for answer in wrong.evidence or () if answer.verdict == "contradicts"} == {"resampler"}


@pytest.mark.parametrize("layout", ["resampler-split-kv", "diffusers-plus", "instantid"])
def test_other_names_and_containers_hold_the_same_evidence(layout: str, canonical: Path, tmp_path: Path) -> None:
    out = tmp_path / ("other.bin" if layout == "instantid" else "other.safetensors")
    convert(canonical, out, to=layout, **DECLARED)
    result = inspect(out, values=True, **DECLARED)
    assert tuple(answer.sentence for answer in result.evidence or ()) == CONSISTENT


def test_a_projection_without_its_feed_forward_is_asked_too() -> None:
    result = inspect(trained(REDUNDANT).path, values=True, heads=8, dim_head=16)
    assert [answer.verdict for answer in result.evidence or ()] == ["consistent", "none"]
    result = inspect(trained(UNTRAINED).path, values=True, **DECLARED)
    assert [answer.verdict for answer in result.evidence or ()] == ["none", "none"]


def test_what_cannot_be_asked_gives_no_evidence(canonical: Path, tmp_path: Path) -> None:
    arrays = adapter(ONE_TOKEN)
    integers = {name: array.astype(np.int8) if ".to_" in name else array for name, array in arrays.items()}
    result = inspect(write(tmp_path / "int8.safetensors", integers), values=True, **DECLARED)
    assert [answer.verdict for answer in result.evidence or ()] == ["none", "none"]
    lacking = {name: array for name, array in arrays.items() if "2.0.to_out" not in name}
    result = inspect(write(tmp_path / "lacking.safetensors", lacking), values=True, **DECLARED)
    assert [answer.verdict for answer in result.evidence or ()] == ["none", "none"]
    bare = {name: array for name, array in arrays.items() if name.startswith("ip_adapter.")}
    assert inspect(write(tmp_path / "pairs.safetensors", bare), values=True).evidence == ()


def test_damaged_weights_are_a_finding_and_no_evidence(canonical: Path, tmp_path: Path) -> None:
    out = tmp_path / "damaged.bin"
    convert(canonical, out, to="instantid")
    data = bytearray(out.read_bytes())
    kv = trained(ONE_TOKEN).layers[1][1].tobytes()
    data[data.index(kv) + 100] ^= 1
    out.write_bytes(data)
    result = inspect(out, values=True, **DECLARED)
    assert any(finding.severity == "error" for finding in result.findings)
    assert [answer.verdict for answer in result.evidence or ()] == ["none", "none"]


def test_verify_says_what_the_weights_are_consistent_with(canonical: Path) -> None:
    result = verify(canonical, **DECLARED, tokens=8)
    assert result.passed
    assert result.assumed[:2] == (
        "heads=4, dim_head=32 (shapes show only their product 128): assumed, and the weights are consistent with it",
        "to_kv rows hold k first, head by head: assumed, and the weights are consistent with it",
    )
    check = next(check for check in result.checks if check.name == "head-layout")
    assert check.status == "assumed"
    assert check.message.endswith(f"only --against, a recorded run, shows them; {CONSISTENT[0]}; {CONSISTENT[1]}")
    assert [answer["verdict"] for answer in result.to_dict()["evidence"]] == ["consistent", "consistent"]


def test_verify_fails_what_the_weights_contradict(swapped: Path) -> None:
    result = verify(swapped, **DECLARED, tokens=8)
    assert result.verdict == "FAIL: head-layout"
    command = f"ckptfix convert {swapped} --layout resampler-v-first --heads 4 --dim-head 32 --out fixed.safetensors"
    assert result.hint == command


def test_compat_asks_the_weights_only_if_told_to(canonical: Path, tmp_path: Path) -> None:
    """Heads of 32, and V rows before K rows: both load everywhere and compute something else."""
    assert compat(canonical).to_dict()["dim_head"] == {"value": 64, "status": "assumed"}
    asked = compat(canonical, values=True)
    assert asked.to_dict()["dim_head"] == {"value": 32, "status": "inferred"}
    assert "this file's heads are 32 wide, as the weights say" in " ".join(one.why for one in asked.consumers)
    assert compat(canonical, dim_head=32).to_dict()["dim_head"] == {"value": 32, "status": "declared"}
    swapped = write(tmp_path / "swapped.safetensors", adapter(ONE_TOKEN, v_first))
    told = compat(swapped, values=True, dim_head=32)
    whys = [one.why for one in told.consumers if one.verdict == "loads-wrong"]
    assert whys and all("as the weights say" in why for why in whys)


def test_a_record_needs_no_evidence(canonical: Path, tmp_path: Path) -> None:
    record = tmp_path / "run.safetensors"
    verify(canonical, **DECLARED, tokens=8, record=record)
    result = verify(canonical, against=record, tokens=8)
    assert (result.passed, result.evidence) == (True, ())


def test_plain_inspection_needs_no_numpy(canonical: Path) -> None:
    code = f"import sys; from ckptfix import inspect; inspect({str(canonical)!r}); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
