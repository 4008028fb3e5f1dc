"""Runs the reference Resampler on noise: its output, and which weights and tokens take part in it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ckptfix.devices import Device
from ckptfix.reference import AdapterConfig
from ckptfix.requirements import missing_dependency
from ckptfix.resampler import load_resampler
from ckptfix.tensors.decoding import Array

try:
    import torch
except ModuleNotFoundError as error:
    raise missing_dependency("torch") from error

Tokens = NDArray[np.float32]
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


def forward(config: AdapterConfig, tensors: Tensors, tokens: Tokens, device: Device, dtype: str) -> Run:
    """(B, S, E) -> (B, Q, O); `tensors` may lie on any device and have any float dtype."""
    placed = {name: tensor.to(device.torch, getattr(torch, dtype)) for name, tensor in tensors.items()}
    resampler = load_resampler(config, placed)
    given = torch.from_numpy(tokens).to(device.torch, getattr(torch, dtype))
    with torch.no_grad():
        if device.name != "cpu":
            resampler(given)  # the first call also starts libraries and compiles kernels
        device.wait()
        start = time.perf_counter()
        output = resampler(given)
        device.wait()
        seconds = time.perf_counter() - start
    return Run(output.float().cpu().numpy().astype(np.float64), seconds)


def participation(config: AdapterConfig, tensors: Tensors, tokens: Tokens, device: Device, seed: int) -> Participation:
    """Float32 gradients of sum(output * noise): a tensor without one could hold anything.

    to_kv counts as two, its k rows and its v rows. Each gradient is judged and dropped as soon as it is there.
    """
    placed = {name: tensor.to(device.torch, torch.float32) for name, tensor in tensors.items()}
    resampler = load_resampler(config, placed).requires_grad_(True)
    dead, overflowing = list[str](), list[str]()

    def judge(name: str, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        parameter.grad = None
        for part, rows in _roles(name, config):
            piece = None if gradient is None else gradient[rows]
            if piece is None or not bool(piece.any()):
                dead.append(part)
            elif not bool(piece.isfinite().all()):
                overflowing.append(part)

    waiting = dict(resampler.named_parameters())
    for name, parameter in waiting.items():
        parameter.register_post_accumulate_grad_hook(partial(judge, name))  # type: ignore[no-untyped-call]
    given = torch.from_numpy(tokens).to(device.torch).requires_grad_(True)
    with torch.enable_grad():
        output = resampler(given)
        weight = torch.from_numpy(noise(tuple(output.shape), seed + 1)).to(device.torch)
        (output * weight).sum().backward()
    heard = given.grad.abs().amax(dim=(0, 2)) != 0 if given.grad is not None else torch.zeros(tokens.shape[1])
    order = [part for name in waiting for part, _ in _roles(name, config)]
    empty = [name for name, tensor in placed.items() if not name.endswith(".bias") and not bool(tensor.any())]
    return Participation(
        tuple(sorted(dead, key=order.index)),
        tuple(sorted(overflowing, key=order.index)),
        tuple(empty),
        int((~heard.bool()).sum()),
        tokens.shape[1],
    )


def _roles(name: str, config: AdapterConfig) -> list[tuple[str, slice]]:
    """What a tensor is to be told apart into, and its rows."""
    if not name.endswith("to_kv.weight"):
        return [(name, slice(None))]
    return [(f"{name} (k rows)", slice(config.inner)), (f"{name} (v rows)", slice(config.inner, None))]
