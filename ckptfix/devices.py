"""Where torch computes, and how exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ckptfix.errors import UnavailableError, UsageError
from ckptfix.requirements import missing_dependency

try:
    import torch
except ModuleNotFoundError as error:
    raise missing_dependency("torch") from error

DEVICES = ("auto", "cuda", "mps", "cpu")
TITLES = {"cuda": "CUDA", "mps": "MPS (Apple GPU)"}


@dataclass(frozen=True, slots=True)
class Device:
    """The device to compute on; `note` says what `auto` did without, empty when it had its first choice."""

    name: str
    note: str = ""

    @property
    def torch(self) -> torch.device:
        return torch.device(self.name)

    def wait(self) -> None:
        """Until all that was asked of the device is done; a clock read before that measures nothing."""
        if self.name == "cuda":
            torch.cuda.synchronize()
        elif self.name == "mps":
            torch.mps.synchronize()


def choose_device(requested: str) -> Device:
    """`auto` takes the first GPU that works, else the CPU, and says so.

    UnavailableError if the device asked for by name is not there: never a silent fall-back.
    """
    if requested not in DEVICES:
        raise UsageError(f"there is no device {requested!r}", hint=f"use one of {', '.join(DEVICES)}", code="device")
    if requested == "cpu":
        return Device("cpu")
    wanted = TITLES if requested == "auto" else (requested,)
    reasons: list[str] = []
    for name in wanted:
        reason = _why_not(name)
        if reason is None:
            return Device(name)
        reasons.append(reason)
    if requested == "auto":
        return Device("cpu", f"no GPU to use ({'; '.join(reasons)}): ran on the CPU")
    raise UnavailableError(
        f"{TITLES[requested]} was asked for and cannot be used: {reasons[0]}",
        hint="use --device cpu, or --device auto to take what is there",
        code="device",
        device=requested,
    )


@dataclass(frozen=True, slots=True)
class Present:
    """One device of this machine: its kind, its name, and bytes of memory, free and in all (0 where unknown)."""

    kind: str
    name: str
    free: int = 0
    total: int = 0


def present_devices() -> tuple[list[Present], list[str]]:
    """The GPUs that work, and why there are no others."""
    present: list[Present] = []
    reasons: list[str] = []
    for kind in TITLES:
        reason = _why_not(kind)
        if reason is not None:
            reasons.append(reason)
        elif kind == "mps":
            present.append(Present(kind, TITLES[kind]))
        else:
            for index in range(torch.cuda.device_count()):
                free, total = torch.cuda.mem_get_info(index)
                present.append(Present(kind, torch.cuda.get_device_name(index), free, total))
    return present, reasons


def _why_not(name: str) -> str | None:
    """None if a small computation on the device works."""
    if name == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        return "this torch was built without CUDA"
    if name == "mps" and not torch.backends.mps.is_built():
        return "this torch was built without MPS"
    if name == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if name == "mps" and not torch.backends.mps.is_available():
        return "torch sees no MPS device"
    try:
        one = torch.ones(1, device=name)
        return None if float(one + one) == 2 else f"1 + 1 gave {float(one + one)} on it"
    except RuntimeError as error:  # a driver too old, a GPU this build has no kernels for, or one that is full
        return str(error).strip().splitlines()[0]


@contextmanager
def exact_arithmetic(device: Device) -> Iterator[None]:
    """Full float32 products, no autocast, and gradients possible, whatever the caller has set; restored afterwards.

    TF32 and its likes round products to 10 bits, 1e-3 of scale; they also exist on CPUs (oneDNN with bfloat16).
    UnavailableError if the memory of the device does not suffice for what is done inside.
    """
    cuda = torch.backends.cuda.matmul
    settings: list[tuple[Any, str, Any]] = [
        (cuda, "allow_fp16_reduced_precision_reduction", False),
        (cuda, "allow_bf16_reduced_precision_reduction", False),
    ]
    with ExitStack() as stack:
        stack.callback(_restore_products, *_products())
        torch.set_float32_matmul_precision("highest")  # sets the newer switches too, where there are any
        for owner, name, value in settings:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        stack.enter_context(torch.inference_mode(False))
        for kind in {device.name, "cpu"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise UnavailableError(
                f"the memory of {device.name} does not suffice",
                hint="use --device cpu, or end what else runs there",
                code="memory",
                device=device.name,
            ) from error


def _newer_switches() -> list[Any]:
    """From torch 2.9 on: one per backend, beside the older global one; products refuse to run if the two disagree."""
    on_cpu = getattr(torch.backends.mkldnn, "matmul", None)
    return [] if on_cpu is None else [torch.backends.cuda.matmul, on_cpu]


def _products() -> tuple[str | None, list[str]]:
    """The settings for float32 products: the older switch and the newer ones."""
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # unreadable once a caller has set a newer one
        older = None
    return older, [switch.fp32_precision for switch in _newer_switches()]


def _restore_products(older: str | None, newer: list[str]) -> None:
    if older is not None:
        torch.set_float32_matmul_precision(older)
    for switch, value in zip(_newer_switches(), newer, strict=True):
        switch.fp32_precision = value
