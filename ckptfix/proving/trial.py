"""Runs a reference module on noise: its output, and which weights and tokens take part in it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ckptfix.devices import Device
from ckptfix.families.config import Config
from ckptfix.families.modules import load_projection
from ckptfix.requirements import missing_dependency
from ckptfix.tensors.decoding import Array

try:
    import torch
except ModuleNotFoundError as error:
    raise missing_dependency("torch") from error

Tokens = NDArray[np.float32]
Inputs = tuple[Tokens, ...]
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Run:
    """`output` (B, Q, O) widened to float64; `seconds` of the forward pass alone."""

    output: Array
    seconds: float


@dataclass(frozen=True, slots=True)
class Participation:
    """`dead` have a gradient of exactly zero everywhere, `overflowing` one that is not finite, `empty` hold nothing
    but zeros though they are matrices or scales. `deaf` counts the input tokens that the output does not depend on.
    """

    dead: tuple[str, ...]
    overflowing: tuple[str, ...]
    empty: tuple[str, ...]
    deaf: int
    tokens: int


def noise(shape: tuple[int, ...], seed: int) -> Tokens:
    """Normal noise, the same on every device and with every torch: numpy's PCG64."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def forward(config: Config, tensors: Tensors, inputs: Inputs, device: Device, dtype: str) -> Run:
    """What `config.input_shapes` lists -> (B, Q, O); `tensors` may lie on any device and have any float dtype."""
    placed = {name: tensor.to(device.torch, getattr(torch, dtype)) for name, tensor in tensors.items()}
    module = load_projection(config, placed)
    given = [torch.from_numpy(array).to(device.torch, getattr(torch, dtype)) for array in inputs]
    with torch.no_grad():
        if device.name != "cpu":
            module(*given)  # the first call also starts libraries and compiles kernels
        device.wait()
        start = time.perf_counter()
        output = module(*given)
        device.wait()
        seconds = time.perf_counter() - start
    return Run(output.float().cpu().numpy().astype(np.float64), seconds)


def participation(config: Config, tensors: Tensors, inputs: Inputs, device: Device, seed: int) -> Participation:
    """Float32 gradients of sum(output * noise): a tensor without one could hold anything.

    to_kv counts as two, its k rows and its v rows. Each gradient is judged and dropped as soon as it is there.
    """
    placed = {name: tensor.to(device.torch, torch.float32) for name, tensor in tensors.items()}
    module = load_projection(config, placed).requires_grad_(True)
    dead, overflowing = list[str](), list[str]()

    def judge(name: str, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        parameter.grad = None
        for part, rows in _roles(name, placed):
            piece = None if gradient is None else gradient[rows]
            if piece is None or not bool(piece.any()):
                dead.append(part)
            elif not bool(piece.isfinite().all()):
                overflowing.append(part)

    waiting = dict(module.named_parameters())
    for name, parameter in waiting.items():
        parameter.register_post_accumulate_grad_hook(partial(judge, name))  # type: ignore[no-untyped-call]
    given = [torch.from_numpy(array).to(device.torch).requires_grad_(True) for array in inputs]
    with torch.enable_grad():
        output = module(*given)
        weight = torch.from_numpy(noise(tuple(output.shape), seed + 1)).to(device.torch)
        (output * weight).sum().backward()
    heard = torch.cat([_heard(array) for array in given])
    order = [part for name in waiting for part, _ in _roles(name, placed)]
    empty = [name for name, tensor in placed.items() if not name.endswith(".bias") and not bool(tensor.any())]
    return Participation(
        tuple(sorted(dead, key=order.index)),
        tuple(sorted(overflowing, key=order.index)),
        tuple(empty),
        int((~heard).sum()),
        len(heard),
    )


def _heard(given: torch.Tensor) -> torch.Tensor:
    """Which tokens of an input (B, S, E) have a gradient; a vector (B, E) counts as one."""
    if given.grad is None:
        return torch.zeros(given.shape[1] if given.ndim == 3 else 1, dtype=torch.bool)
    gradient = given.grad if given.ndim == 3 else given.grad[:, None]
    return (gradient.abs().amax(dim=(0, 2)) != 0).cpu()


def _roles(name: str, tensors: Tensors) -> list[tuple[str, slice]]:
    """What a tensor is to be told apart into, and its rows."""
    if not name.endswith("to_kv.weight"):
        return [(name, slice(None))]
    half = len(tensors[name]) // 2
    return [(f"{name} (k rows)", slice(half)), (f"{name} (v rows)", slice(half, None))]
