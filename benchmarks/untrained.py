"""How often a trained matrix looks untrained to `inspect --values`, and a fresh one does: writes untrained.md.

Usage: python -m benchmarks.untrained       (some 5 minutes on 2 cores; needs torch)

Small Resamplers are trained from seeds on a task of their own, looked at after some steps in three dtypes.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from ckptfix.forensics.initial import INITIALS, initial_of, is_large_enough
from ckptfix.manifest import DTYPES, Span, TensorInfo
from ckptfix.reference import AdapterConfig
from ckptfix.resampler import Resampler
from ckptfix.tensors.measuring import measure

CONFIGS = (
    AdapterConfig(dim=64, depth=2, dim_head=16, heads=4, num_queries=8, embedding_dim=32, output_dim=48),
    AdapterConfig(dim=128, depth=2, dim_head=32, heads=4, num_queries=8, embedding_dim=20, output_dim=64),
)
STEPS = (1, 5, 20, 100, 400)
RUNS = (("AdamW", 1e-3), ("AdamW", 1e-4), ("AdamW", 1e-5), ("SGD", 1e-2))
SAVED = {
    "F32": (torch.float32, torch.int32),
    "F16": (torch.float16, torch.int16),
    "BF16": (torch.bfloat16, torch.int16),
}


def fresh(config: AdapterConfig, seed: int) -> Resampler:
    """As upstream builds it."""
    torch.manual_seed(seed)
    module = Resampler(config).to_empty(device="cpu")
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.LayerNorm):
            part.reset_parameters()
    with torch.no_grad():
        module.latents.copy_(torch.randn(module.latents.shape) / config.dim**0.5)
    return module


def trained(module: Resampler, config: AdapterConfig, optimizer: str, rate: float, seed: int) -> Iterator[int]:
    """Trains in place, on tanh of a fixed linear map of the mean token; yields at the steps to look at."""
    noise = torch.Generator().manual_seed(seed)
    target = torch.randn(config.embedding_dim, config.output_dim, generator=noise) / config.embedding_dim**0.5
    stepper = getattr(torch.optim, optimizer)(module.parameters(), lr=rate)
    for step in range(1, max(STEPS) + 1):
        tokens = torch.randn(16, 9, config.embedding_dim, generator=noise)
        wanted = torch.tanh(tokens.mean(1, keepdim=True) @ target)
        stepper.zero_grad()
        ((module(tokens) - wanted) ** 2).mean().backward()
        stepper.step()
        if step in STEPS:
            yield step


def looks(module: Resampler, dtype: str) -> list[bool]:
    """Of each matrix that is judged, whether it looks untrained."""
    kind, bits = SAVED[dtype]
    found = []
    for name, parameter in module.state_dict().items():
        tensor = TensorInfo(name, tuple(parameter.shape), DTYPES[dtype], Span("", 0, ()))
        if is_large_enough(tensor):
            data = parameter.detach().to(kind).contiguous().view(bits).numpy().tobytes()
            found.append(initial_of(tensor, measure([data], tensor)) in INITIALS)
    return found


def _share(found: Sequence[bool]) -> str:
    return f"{sum(found)} of {len(found)}"


def main() -> None:
    new: dict[str, list[bool]] = collections.defaultdict(list)
    for seed in range(30):
        for config in CONFIGS:
            for dtype in SAVED:
                new[dtype] += looks(fresh(config, seed), dtype)
    rows = [f"| none | 0 | {' | '.join(_share(new[dtype]) for dtype in SAVED)} |"]
    for optimizer, rate in RUNS:
        found: dict[tuple[int, str], list[bool]] = collections.defaultdict(list)
        for config in CONFIGS:
            for seed in range(2):
                module = fresh(config, 100 + seed)
                for step in trained(module, config, optimizer, rate, seed):
                    for dtype in SAVED:
                        found[step, dtype] += looks(module, dtype)
        for step in STEPS:
            shares = " | ".join(_share(found[step, dtype]) for dtype in SAVED)
            rows.append(f"| {optimizer}, {rate:g} | {step} | {shares} |")
    text = (
        "# Matrices that look untrained\n\n"
        "`python -m benchmarks.untrained`: Resamplers 64 and 128 wide, 2 blocks, matrices of 1,280 to 65,536 values, "
        "each looked at\nas it would be saved in three dtypes. Every number but those of the first row is a false "
        "alarm.\n\n"
        "| training, learning rate | steps | F32 | F16 | BF16 |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "What is sharp here is the bound of a uniform start. Latents are not judged: in 512 to 1,024 normal numbers "
        "400 steps\nof AdamW at 1e-3 left no trace that the test sees. A matrix that started as normal noise shows "
        "training late too,\nso that alone is never more than a note.\n"
    )
    (Path(__file__).parent / "untrained.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
