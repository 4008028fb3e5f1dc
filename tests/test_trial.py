"""Runs on noise: the same noise everywhere, and gradients that name what takes no part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ckptfix.devices import Device, exact_arithmetic
from ckptfix.proving.trial import Participation, forward, noise, participation
from tests.golden import golden

RUN = golden("seed-document-heads")
CPU = Device("cpu")
Tensors = dict[str, torch.Tensor]


def tensors() -> Tensors:
    return {name: torch.from_numpy(array.copy()) for name, array in RUN.weights.items()}


def part(weights: Tensors, tokens: int = 5) -> Participation:
    with exact_arithmetic(CPU):
        return participation(RUN.config, weights, (noise((2, tokens, 32), 0),), CPU, 0)


def test_noise_is_pinned() -> None:
    made = noise((2, 257, 512), 0)
    assert made.dtype == np.float32
    assert made[0, 0, :3].tolist() == pytest.approx([0.12573022, -0.13210486, 0.64042264])
    np.testing.assert_array_equal(noise((2, 3, 4), 1), noise((2, 3, 4), 1))
    assert not np.array_equal(noise((2, 3, 4), 1), noise((2, 3, 4), 2))


def test_forward_gives_the_golden_output() -> None:
    with exact_arithmetic(CPU):
        run = forward(RUN.config, tensors(), (RUN.input,), CPU, "float32")
    assert run.output.dtype == np.float64
    assert run.seconds > 0
    assert abs(run.output - RUN.output_fp32).max() < 1e-5 * abs(RUN.output_fp32).max()


def test_a_sound_projection_takes_part_whole() -> None:
    assert part(tensors()) == Participation((), (), (), 0, 5)


def test_the_weights_are_left_as_they_were() -> None:
    weights = tensors()
    part(weights)
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in weights.values())
    np.testing.assert_array_equal(weights["latents"].numpy(), RUN.weights["latents"])


def zero_values(weights: Tensors) -> None:
    weights["layers.0.0.to_kv.weight"][RUN.config.inner :] = 0


def zero_feed(weights: Tensors) -> None:
    weights["layers.0.1.3.weight"].zero_()


def zero_scale(weights: Tensors) -> None:
    weights["layers.0.0.norm1.weight"].zero_()


@pytest.mark.parametrize(
    ("spoil", "dead", "empty", "deaf"),
    [
        (
            zero_values,
            (
                "layers.0.0.to_q.weight",
                "layers.0.0.to_kv.weight (k rows)",
                "layers.0.0.to_out.weight",
            ),
            (),
            5,
        ),
        (
            zero_feed,
            ("layers.0.1.0.weight", "layers.0.1.0.bias", "layers.0.1.1.weight"),
            ("layers.0.1.3.weight",),
            0,
        ),
        (zero_scale, ("proj_in.weight", "proj_in.bias"), ("layers.0.0.norm1.weight",), 5),
    ],
)
def test_what_takes_no_part(
    spoil: Callable[[Tensors], None], dead: tuple[str, ...], empty: tuple[str, ...], deaf: int
) -> None:
    weights = tensors()
    spoil(weights)
    found = part(weights)
    assert set(dead) <= set(found.dead)
    assert found.empty == empty
    assert found.deaf == deaf


def test_gradients_that_overflow() -> None:
    weights = tensors()
    weights["norm_out.weight"].fill_(3e38)
    found = part(weights)
    assert "proj_out.weight" in found.overflowing
    assert not found.dead
