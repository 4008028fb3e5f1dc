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
    """
    cuda = torch.backends.cuda.matmul
    settings: list[tuple[Any, str, Any]] = [
        (cuda, "allow_fp16_reduced_precision_reduction", False),
        (cuda, "allow_bf16_reduced_precision_reduction", False),
    ]
    on_cpu = getattr(torch.backends.mkldnn, "matmul", None)
    if on_cpu is not None:  # torch 2.9 on; reading the older switch after someone set the newer one is an error there
        settings += [(cuda, "fp32_precision", "ieee"), (on_cpu, "fp32_precision", "ieee")]
    with ExitStack() as stack:
        for owner, name, value in settings:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        if on_cpu is None:
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.autocast(device.name, enabled=False))
        yield
