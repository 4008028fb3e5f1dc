"""The device is the one asked for, and arithmetic is exact whatever the caller has set."""

from __future__ import annotations

import pytest
import torch

from ckptfix import devices
from ckptfix.devices import Device, choose_device, exact_arithmetic
from ckptfix.errors import ExitCode, UnavailableError, UsageError


def pretend(monkeypatch: pytest.MonkeyPatch, reasons: dict[str, str | None]) -> None:
    monkeypatch.setattr(devices, "_why_not", reasons.__getitem__)


def test_auto_prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"cuda": None, "mps": None})
    assert choose_device("auto") == Device("cuda")
    pretend(monkeypatch, {"cuda": "no driver", "mps": None})
    assert choose_device("auto") == Device("mps")


def test_auto_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"cuda": "no driver", "mps": "not a Mac"})
    assert choose_device("auto") == Device("cpu", "no GPU to use (no driver; not a Mac): ran on the CPU")


@pytest.mark.parametrize(("name", "title"), [("cuda", "CUDA"), ("mps", "MPS (Apple GPU)")])
def test_no_fall_back_from_a_device_asked_for(monkeypatch: pytest.MonkeyPatch, name: str, title: str) -> None:
    pretend(monkeypatch, {"cuda": "no driver", "mps": "no driver"})
    with pytest.raises(UnavailableError) as caught:
        choose_device(name)
    assert caught.value.message == f"{title} was asked for and cannot be used: no driver"
    assert caught.value.hint == "use --device cpu, or --device auto to take what is there"
    assert caught.value.exit_code is ExitCode.UNAVAILABLE


def test_a_device_that_cannot_add_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernels(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nmore lines")

    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", no_kernels)
    with pytest.raises(UnavailableError) as caught:
        choose_device("cuda")
    assert caught.value.message == ("CUDA was asked for and cannot be used: CUDA error: no kernel image is available")


def test_cpu() -> None:
    assert choose_device("cpu") == Device("cpu")


def test_unknown_device() -> None:
    with pytest.raises(UsageError) as caught:
        choose_device("cuda:0")
    assert caught.value.hint == "use one of auto, cuda, mps, cpu"


def test_products_are_full_float32_inside() -> None:
    cuda = torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("medium")
    try:
        assert cuda.allow_tf32
        with exact_arithmetic(Device("cpu")):
            assert not cuda.allow_tf32
            assert not cuda.allow_fp16_reduced_precision_reduction
            assert torch.get_float32_matmul_precision() == "highest"
        assert cuda.allow_tf32
        assert cuda.allow_fp16_reduced_precision_reduction
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_settings_come_back_after_an_error() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(KeyError), exact_arithmetic(Device("cpu")):
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_newer_switches_are_respected_too() -> None:
    cuda = torch.backends.cuda.matmul
    if not hasattr(cuda, "fp32_precision"):
        pytest.skip("this torch has the older switches only")
    before = cuda.fp32_precision
    cuda.fp32_precision = "tf32"
    try:
        with exact_arithmetic(Device("cpu")):
            assert cuda.fp32_precision == "ieee"
            assert not cuda.allow_tf32  # raises where the older and the newer switch disagree, as products do
        assert cuda.fp32_precision == "tf32"
    finally:
        cuda.fp32_precision = before


def test_gradients_are_possible_inside() -> None:
    with torch.inference_mode(), exact_arithmetic(Device("cpu")), torch.enable_grad():
        x = torch.ones(3, requires_grad=True)
        torch.autograd.backward((x * x).sum())
    assert x.grad is not None


def test_a_full_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError) as caught, exact_arithmetic(Device("cpu")):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert caught.value.message == "the memory of cpu does not suffice"
    assert caught.value.hint == "use --device cpu, or end what else runs there"
