"""verify passes what is right, fails what is wrong by name, and never claims what it cannot know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptfix.errors import ExitCode, RefusedError, UnavailableError, UnsafeError, UsageError
from ckptfix.proving.checks import Check
from ckptfix.verification import Verification, verify
from tests.adapters import SILENT, Arrays, adapter, dim_major, interleaved, one_made_up, projection, v_first, write
from tests.golden import GOLDEN, Golden, golden

NAME = "inner-differs-from-dim"


def check(result: Verification, name: str) -> Check:
    return next(check for check in result.checks if check.name == name)


def run(path: Path, **options: Any) -> Verification:
    """A short run on the CPU."""
    chosen: dict[str, Any] = {"device": "cpu", "tokens": 9} | options
    return verify(path, **chosen)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads that wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write(tmp_path / "adapter.safetensors", adapter())


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_adapters_pass_against_their_records(tmp_path: Path, name: str) -> None:
    result = run(write(tmp_path / "a.safetensors", adapter(name)), against=golden(name).path)
    assert {check.name: check.status for check in result.checks} == {
        "layout": "pass",
        "strict-load": "pass",
        "shape": "pass",
        "finite": "pass",
        "not-constant": "pass",
        "recomputation": "pass",
        "participation": "pass",
        "kv-pairs": "pass",
        "head-layout": "pass",
        "against": "pass",
    }
    numbers = check(result, "against").numbers
    assert set(numbers) == {"float32", "float64"}
    assert numbers["float32"]["relative_error"] < 1e-5
    assert numbers["float64"]["relative_error"] < 1e-6
    assert result.config.to_dict() == golden(name).config.to_dict()
    assert result.exit_code is ExitCode.OK
    assert result.verdict == (
        "PASS, assuming what no check of a file alone can show: K/V pairs stand in the UNet's order "
        "(no shape shows two of equal width exchanged); to_k_ip and to_v_ip are not exchanged"
    )


def test_alone_it_says_what_it_cannot_know(whole: Path) -> None:
    result = run(whole, tokens=257)
    assert result.exit_code is ExitCode.OK
    assert check(result, "head-layout").status == "assumed"
    assert check(result, "head-layout").message == (
        "verify cannot know from a file alone whether heads=5, dim_head=32 and the row order of to_q, to_kv and to_out "
        "are right: others fit the same names and shapes and pass every check above; only --against, a recorded run, "
        "shows them"
    )
    assert result.verdict.startswith("PASS, assuming what no check of a file alone can show: heads=5, dim_head=32 ")
    assert result.hint == (
        f"ckptfix verify {whole} --against REC.safetensors compares with a recorded run and shows the rest"
    )
    assert check(result, "shape").message == "[2, 257, 64] -> [2, 8, 48]"
    assert check(result, "strict-load").message == (
        "29 tensors fit Resampler(dim=96, depth=2, dim_head=32, heads=5, num_queries=8, embedding_dim=64, "
        "output_dim=48, ff_mult=2) exactly"
    )
    assert check(result, "kv-pairs").message == (
        "16 K/V pairs, complete for a UNet built like Stable Diffusion 1.5 with widths 8, 16, 32, 32, "
        "finite and not constant"
    )
    assert result.proved == (
        "the image projection is complete and has the shapes of the reference module",
        "all its weights and outputs are finite",
        "its output varies with the input and the query",
        "its arithmetic agrees with an independent float64 recomputation",
        "every one of its tensors takes part in the output",
        "the K/V pairs are complete, finite and not constant",
    )


@pytest.mark.parametrize("spoil", SILENT)
def test_silent_corruption_passes_alone_and_fails_against(
    tmp_path: Path, spoil: Callable[[Arrays, Golden], None]
) -> None:
    arrays = adapter()
    spoil(arrays, golden(NAME))
    path = write(tmp_path / "a.safetensors", arrays)
    alone = run(path)
    assert alone.exit_code is ExitCode.OK
    assert check(alone, "head-layout").status == "assumed"
    compared = run(path, against=golden(NAME).path)
    assert compared.exit_code is ExitCode.PROBLEM
    assert compared.verdict == "FAIL: against"
    assert check(compared, "against").numbers["float32"]["relative_error"] > 0.01
    assert check(compared, "against").message.startswith("differs from the recorded run: float32: max error ")
    assert check(compared, "head-layout").status == "assumed"


def test_a_wrong_head_count_fails_against(whole: Path) -> None:
    result = run(whole, against=golden(NAME).path, heads=10)
    assert result.verdict == "FAIL: against"
    assert check(result, "against").message.startswith(
        "the record was made with heads 5, --heads says 10. The run differs from the recorded run: float32: max error "
    )
    assert result.config.to_dict()["heads"] == 10


def test_heads_that_agree_with_the_record(whole: Path) -> None:
    assert run(whole, against=golden(NAME).path, dim_head=32).exit_code is ExitCode.OK


def test_heads_that_make_no_inner_width(whole: Path) -> None:
    with pytest.raises(RefusedError, match="does not make the inner width 160 of this file"):
        run(whole, heads=7)


def test_a_record_of_other_sizes(whole: Path) -> None:
    result = run(whole, against=golden("seed-document-heads").path)
    assert result.exit_code is ExitCode.PROBLEM
    assert check(result, "against").message == (
        "the record was made with dim 64, the file 96; with depth 1, the file 2; with inner 64, the file 160; with "
        "num_queries 4, the file 8; with embedding_dim 32, the file 64; with output_dim 64, the file 48; with "
        "ff_mult 4, the file 2"
    )


def test_declared_order_agrees_with_the_record(tmp_path: Path) -> None:
    arrays = adapter()
    v_first(arrays, golden(NAME))
    path = write(tmp_path / "a.safetensors", arrays)
    result = run(path, against=golden(NAME).path, layout="resampler-v-first")
    assert check(result, "against").status == "pass"
    assert result.verdict == "would verify after convert"
    assert result.exit_code is ExitCode.PROBLEM


@pytest.mark.parametrize(
    ("spoil", "layout"),
    [
        (v_first, "resampler-v-first"),
        (interleaved, "resampler-interleaved-kv"),
        (dim_major, "resampler-dim-major"),
    ],
)
def test_the_row_order_that_agrees_with_the_record_is_found(
    tmp_path: Path, spoil: Callable[[Arrays, Golden], None], layout: str
) -> None:
    arrays = adapter()
    spoil(arrays, golden(NAME))
    path = write(tmp_path / "a.safetensors", arrays)
    result = run(path, against=golden(NAME).path)
    assert check(result, "against").status == "fail"
    assert check(result, "against").message.endswith(f". Read as --layout {layout} the file gives the recorded output")
    assert result.hint == f"ckptfix convert {path} --layout {layout} --out fixed.safetensors"


def test_other_weights_agree_in_no_row_order(tmp_path: Path) -> None:
    arrays = adapter()
    one_made_up(arrays, golden(NAME))
    result = run(write(tmp_path / "a.safetensors", arrays), against=golden(NAME).path)
    assert check(result, "against").message.endswith(". No other known row order gives the recorded output either")
    assert result.hint == (
        "the record is of other weights or head counts: compare with one of the model that this file should be"
    )


def test_weights_that_amplify_rounding_are_told_from_wrong_arithmetic(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.proj_out.bias"] += 1e4  # which the norm after it takes away again
    result = run(write(tmp_path / "a.safetensors", arrays))
    assert result.verdict == "FAIL: recomputation"
    assert check(result, "recomputation").message.endswith("): these weights amplify the rounding of the shorter dtype")
    assert check(result, "recomputation").numbers["float64_relative_error"] < 1e-6


def test_a_file_that_needs_mapping_is_verified_as_planned(tmp_path: Path) -> None:
    arrays = {name.replace("image_proj.latents", "image_proj.queries"): array for name, array in adapter().items()}
    path = write(tmp_path / "a.safetensors", arrays)
    result = run(path, against=golden(NAME).path)
    assert result.verdict == "would verify after convert"
    assert result.exit_code is ExitCode.PROBLEM
    assert [check.name for check in result.failed] == ["layout"]
    assert result.hint.startswith(f"ckptfix convert {path} ")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_dtypes_stay_within_their_bounds(whole: Path, dtype: str) -> None:
    result = run(whole, dtype=dtype, against=golden(NAME).path, tokens=257)
    assert result.exit_code is ExitCode.OK
    bound = {"float16": 1e-2, "bfloat16": 3e-2}[dtype]
    error = check(result, "recomputation").numbers["relative_error"]
    assert 1e-5 < error < bound
    assert set(check(result, "against").numbers) == {"float32", "float64", dtype}


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_every_stored_float(tmp_path: Path, stored: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    dtype = getattr(torch, stored)
    save_file({name: torch.from_numpy(array).to(dtype) for name, array in adapter().items()}, path)
    result = run(path)
    assert result.exit_code is ExitCode.OK, result.verdict
    assert check(result, "recomputation").numbers["relative_error"] < 1e-5


def test_an_overflow_of_float16_is_named(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.proj_out.weight"] *= 1e5
    path = write(tmp_path / "a.safetensors", arrays)
    assert run(path).exit_code is ExitCode.OK
    result = run(path, dtype="float16")
    assert check(result, "finite").status == "fail"
    message = check(result, "finite").message
    assert message.startswith("the weights are finite and the float16 output is not: nan at [0, 0")
    assert message.endswith("it may overflow: try --dtype bfloat16 or float32")


def test_a_nan_is_located(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.layers.1.1.1.weight"][7, 90] = np.nan
    result = run(write(tmp_path / "a.safetensors", arrays))
    assert check(result, "finite").message == "image_proj.layers.1.1.1.weight holds NaN at [7, 90]"
    assert check(result, "finite").tensors == ("image_proj.layers.1.1.1.weight",)
    assert result.verdict == "FAIL: finite"
    assert check(result, "recomputation").status == "skipped"
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_zeroed_output_matrix_leaves_attention_without_a_part(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.layers.1.0.to_out.weight"][:] = 0
    result = run(write(tmp_path / "a.safetensors", arrays))
    assert result.verdict == "FAIL: participation"
    layer = "image_proj.layers.1.0."
    assert check(result, "participation").tensors == (
        f"{layer}norm1.weight",
        f"{layer}norm1.bias",
        f"{layer}norm2.weight",
        f"{layer}norm2.bias",
        f"{layer}to_q.weight",
        f"{layer}to_kv.weight (k rows)",
        f"{layer}to_kv.weight (v rows)",
        f"{layer}to_out.weight",
    )


def test_zeroed_queries_leave_the_k_rows_without_a_part(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.layers.0.0.to_q.weight"][:] = 0
    result = run(write(tmp_path / "a.safetensors", arrays))
    assert check(result, "participation").message == (
        "image_proj.layers.0.0.to_kv.weight (k rows) take no part in the output (their gradient is exactly zero); "
        "image_proj.layers.0.0.to_q.weight hold nothing but zeros"
    )


def test_an_output_that_ignores_its_input(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.proj_in.weight"][:] = 0
    result = run(write(tmp_path / "a.safetensors", arrays))
    assert check(result, "not-constant").message == "the output is the same for all inputs"
    assert "the output does not depend on 9 input tokens of 9" in check(result, "participation").message


def test_queries_that_are_all_the_same(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.latents"][:] = arrays["image_proj.latents"][:, :1]
    result = run(write(tmp_path / "a.safetensors", arrays))
    assert check(result, "not-constant").message == "the output is the same for all queries"
    assert result.exit_code is ExitCode.PROBLEM


def test_missing_unexpected_and_ill_shaped_are_named(tmp_path: Path) -> None:
    arrays = adapter()
    del arrays["image_proj.layers.0.0.to_q.weight"]
    arrays["image_proj.extra.weight"] = np.ones((257, 64), np.float32)
    arrays["image_proj.norm_out.bias"] = np.ones(47, np.float32)
    result = run(write(tmp_path / "a.safetensors", arrays), against=golden(NAME).path)
    strict = check(result, "strict-load")
    assert strict.status == "fail"
    assert strict.message == (
        "missing: image_proj.layers.0.0.to_q.weight; unexpected: image_proj.extra.weight; "
        "ill-shaped: image_proj.norm_out.bias is [47], not [48]"
    )
    assert strict.tensors == (
        "image_proj.layers.0.0.to_q.weight",
        "image_proj.extra.weight",
        "image_proj.norm_out.bias",
    )
    assert {check.status for check in result.checks if check.name in ("shape", "recomputation", "against")} == {
        "skipped"
    }
    assert result.hint == f"ckptfix inspect {tmp_path / 'a.safetensors'}"


def test_integers_do_not_load(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.proj_in.weight"] = np.ones((96, 64), np.int8)
    result = run(write(tmp_path / "a.safetensors", arrays))
    assert check(result, "strict-load").message == "not stored as floating-point numbers: image_proj.proj_in.weight"


def test_unknown_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"encoder.weight": np.ones((3, 3), np.float32)})
    result = run(path, against=golden(NAME).path)
    assert result.exit_code is ExitCode.PROBLEM
    assert check(result, "layout").message == "no known layout explains its names: encoder.weight"
    assert {check.status for check in result.checks[1:-2]} == {"skipped"}


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda pairs: pairs.pop("ip_adapter.7.to_v_ip.weight"), "missing: ip_adapter.7.to_v_ip.weight"),
        (
            lambda pairs: pairs.update({"ip_adapter.2.to_k_ip.weight": np.ones((8, 48), np.float32)}),
            "for no attention site: ip_adapter.2.to_k_ip.weight",
        ),
        (
            lambda pairs: pairs.update({"ip_adapter.1.to_k_ip.weight": np.ones((16, 48), np.float32)}),
            "ip_adapter.1.to_k_ip.weight is [16, 48], not [8, 48]",
        ),
        (
            lambda pairs: pairs["ip_adapter.5.to_k_ip.weight"].__setitem__((2, 40), np.inf),
            "ip_adapter.5.to_k_ip.weight holds inf at [2, 40]",
        ),
        (lambda pairs: pairs["ip_adapter.5.to_k_ip.weight"].fill(0), "ip_adapter.5.to_k_ip.weight is all zeros"),
        (
            lambda pairs: pairs["ip_adapter.5.to_k_ip.weight"].fill(2),
            "ip_adapter.5.to_k_ip.weight holds one value everywhere",
        ),
    ],
)
def test_bad_kv_pairs_are_named(tmp_path: Path, spoil: Callable[[Arrays], object], expected: str) -> None:
    arrays = adapter()
    spoil(arrays)
    result = run(write(tmp_path / "a.safetensors", arrays))
    assert check(result, "kv-pairs").message == expected
    assert check(result, "kv-pairs").status == "fail"
    assert check(result, "recomputation").status == "pass"


def test_a_projection_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", projection())
    refused = run(path)
    assert refused.exit_code is ExitCode.PROBLEM
    assert check(refused, "kv-pairs").message == "the file holds no K/V pairs; if that is meant, use --resampler-only"
    accepted = run(path, resampler_only=True, against=golden(NAME).path)
    assert accepted.exit_code is ExitCode.OK
    assert accepted.verdict == "PASS"
    assert accepted.hint == ""


def test_a_record_is_a_golden_file_for_the_next(whole: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.safetensors"
    first = run(whole, record=record, seed=4, dtype="bfloat16")
    assert first.record == str(record)
    again = run(whole, against=record)
    assert again.exit_code is ExitCode.OK
    spoilt = adapter()
    v_first(spoilt, golden(NAME))
    assert run(write(tmp_path / "b.safetensors", spoilt), against=record).verdict == "FAIL: against"


def test_a_record_is_not_overwritten(whole: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.safetensors"
    record.write_bytes(b"precious")
    with pytest.raises(UsageError):
        run(whole, record=record)
    assert record.read_bytes() == b"precious"
    assert run(whole, record=record, force=True).record == str(record)


def test_no_record_is_kept_of_a_run_that_failed(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.layers.1.0.to_out.weight"][:] = 0
    record = tmp_path / "record.safetensors"
    result = run(write(tmp_path / "a.safetensors", arrays), record=record)
    assert result.record is None
    assert not record.exists()


def test_seeds(whole: Path) -> None:
    first, same, other = (run(whole, seed=seed).examination.statistics for seed in (1, 1, 2))
    assert first == same != other


def test_json(whole: Path) -> None:
    document = json.loads(json.dumps(run(whole, against=golden(NAME).path).to_dict(), allow_nan=False))
    assert document["schema"] == "ckptfix.verify/1"
    assert document["passed"] is True
    assert document["device"] == "cpu"
    assert document["config"] == golden(NAME).config.to_dict()
    assert document["input_shape"] == [2, 9, 64]
    assert document["output_shape"] == [2, 8, 48]
    assert document["statistics"]["finite"] is True
    assert document["seconds"] > 0
    assert {"name", "status", "message", "numbers", "tensors"} == set(document["checks"][0])


def test_progress(whole: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    run(whole, against=golden(NAME).path, progress=lambda *step: seen.append(step))
    assert [stage for stage, _, _ in seen] == [
        "reading",
        "weights",
        "float32 run",
        "recomputation",
        "participation",
        "recorded run",
        "K/V pairs",
    ]
    assert [done for _, done, _ in seen] == list(range(7))
    assert {total for _, _, total in seen} == {7}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_silent_fall_back(whole: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        verify(whole, device="cuda", tokens=3)
    assert caught.value.message.startswith("CUDA was asked for and cannot be used: ")
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert verify(whole, device="auto", tokens=3).trial.device.note.endswith(": ran on the CPU")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "there is no dtype 'int8' here"),
        ({"device": "tpu"}, "there is no device 'tpu'"),
        ({"tokens": 0}, "tokens is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_options(whole: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(whole, **options)
    assert caught.value.message == message


def test_one_token_and_one_sample(whole: Path) -> None:
    result = run(whole, tokens=1, batch=1)
    assert result.exit_code is ExitCode.OK
    assert check(result, "shape").message == "[1, 1, 64] -> [1, 8, 48]"


def test_code_in_the_pickle_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "a.bin"
    torch.save({"image_proj": {"latents": torch.ones(1, 2, 3)}, "x": Evil()}, path)
    with pytest.raises(UnsafeError):
        run(path)
    assert not (tmp_path / "ran").exists()


def test_without_torch(whole: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import ckptfix\n"
        "try: ckptfix.verify\n"
        "except ckptfix.CkptfixError as error: print(error.exit_code.value, error.message, '|', error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "5 torch is not installed | pip install 'torch>=2.4'\n"


def test_the_caller_s_settings_neither_matter_nor_change(whole: Path) -> None:
    def settings() -> tuple[Any, ...]:
        cuda = torch.backends.cuda.matmul
        return (
            torch.get_float32_matmul_precision(),
            cuda.fp32_precision if hasattr(cuda, "fp32_precision") else None,
            cuda.allow_bf16_reduced_precision_reduction,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
        )

    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float16)
    try:
        chosen = settings()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            result = run(whole, against=golden(NAME).path)
        assert settings() == chosen
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
    assert result.exit_code is ExitCode.OK, result.verdict


def test_statistics_are_those_of_the_output(whole: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    record = tmp_path / "record.safetensors"
    result = run(whole, record=record)
    output = load_file(record)["output_fp32"]
    assert result.examination.statistics["max"] == pytest.approx(float(output.max()))
    assert result.examination.statistics["std"] == pytest.approx(float(output.astype(np.float64).std()))


@pytest.mark.parametrize("name", GOLDEN)
def test_a_record_that_holds_its_weights_is_verified_against_itself(name: str) -> None:
    result = run(golden(name).path, against=golden(name).path)
    assert (result.verdict, result.exit_code) == ("PASS", ExitCode.OK)
    assert check(result, "kv-pairs").message == "not looked at: a record has none"
