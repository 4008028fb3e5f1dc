"""Whether to_k_ip and to_v_ip are exchanged is said rightly, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptfix
from ckptfix.cli import run
from ckptfix.errors import UsageError
from ckptfix.evidence.candidates import heads_of
from ckptfix.evidence.kv_pairs import judged, layer_scores
from ckptfix.evidence.verdict import Evidence
from ckptfix.inspection import Inspection, inspect
from tests.adapters import WIDTHS, Arrays, write
from tests.base_models import UNET, correlated
from tests.test_schemas import check as check_schema
from tests.trained import ONE_TOKEN, adapter

SITES = len(UNET.sites)
STRONG = 1.0  # Z of 26 to 30


def ask(base: Arrays, pairs: Arrays, *, heads: int = 8) -> Evidence:
    scores = []
    for site in UNET.sites:
        names = (f"{site.path}.to_q.weight", f"{site.path}.to_out.0.weight")
        q, out = (base[name].astype(np.float32) for name in names)
        k, v = (pairs[f"ip_adapter.{site.index}.to_{part}_ip.weight"].astype(np.float32) for part in "kv")
        width = len(q)
        scores.append(layer_scores(q, out, k, v, heads_of(f"head-major-{width // heads}", width)))
    return judged(scores)


@pytest.mark.parametrize(
    ("exchange", "verdict", "best"), [(0, "consistent", "k-then-v"), (SITES, "contradicts", "v-then-k")]
)
def test_the_order_of_correlated_pairs_is_named(exchange: int, verdict: str, best: str) -> None:
    for seed in range(5):
        answer = ask(*correlated(seed, strength=STRONG, exchange=exchange))
        assert (answer.verdict, answer.best, answer.cover) == (verdict, best, 1.0)
        assert (answer.score or 0) > 20 and abs(answer.following or 0) < 4


def test_what_nobody_trained_gives_no_evidence() -> None:
    for seed in range(60):
        answer = ask(*correlated(seed, strength=0))
        assert (answer.verdict, abs(answer.score or 0) < 4.5) == ("none", True)


def test_a_base_that_the_pairs_do_not_belong_to_gives_no_evidence() -> None:
    for seed in range(20):
        base, _ = correlated(seed, strength=STRONG)
        _, pairs = correlated(seed + 1000, strength=STRONG)
        assert ask(base, pairs).verdict == "none"


@pytest.mark.parametrize("exchange", [1, 2, 3, 8, 13])
def test_some_pairs_exchanged_is_no_evidence(exchange: int) -> None:
    for seed in range(3):
        assert ask(*correlated(seed, strength=2.0, exchange=exchange)).verdict == "none"


def test_k_and_v_of_the_same_numbers_agree_with_both() -> None:
    base, pairs = correlated(1, strength=STRONG)
    for site in UNET.sites:  # both learned the same
        base[f"{site.path}.to_out.0.weight"] = base[f"{site.path}.to_q.weight"].T
        pairs[f"ip_adapter.{site.index}.to_v_ip.weight"] = pairs[f"ip_adapter.{site.index}.to_k_ip.weight"]
    answer = ask(base, pairs)
    assert (answer.verdict, (answer.score or 0) > 20, answer.margin) == ("none", True, 0)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_wrong_head_count_names_no_wrong_order(heads: int) -> None:
    for exchange, verdict in ((0, "consistent"), (SITES, "contradicts")):
        assert ask(*correlated(4, strength=STRONG, exchange=exchange), heads=heads).verdict in (verdict, "none")


def test_nothing_to_ask() -> None:
    assert judged([]) == Evidence("kv-pairs", "none", "k-then-v")
    zeros = np.zeros((16, 16), np.float32)
    answer = judged([layer_scores(zeros, zeros, zeros, zeros, heads_of("head-major-2", 16))])
    assert (answer.verdict, answer.score, answer.cover) == ("none", 0, 0)


# -- in files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Path]:
    """Files of one base, its pairs as named and exchanged."""
    base, pairs = correlated(3, strength=STRONG)
    _, exchanged = correlated(3, strength=STRONG, exchange=SITES)
    return {
        "base": write(tmp_path / "unet.safetensors", base),
        "named": write(tmp_path / "named.safetensors", pairs),
        "exchanged": write(tmp_path / "exchanged.safetensors", exchanged),
    }


def pair_answer(result: Inspection) -> dict[str, Any]:
    found: dict[str, Any] = all_answers(result)[-1]
    assert found["question"] == "kv-pairs"
    return found


def all_answers(result: Inspection) -> list[dict[str, Any]]:
    document = json.loads(json.dumps(result.to_dict()))
    assert check_schema(document) == "inspect"
    evidence: list[dict[str, Any]] = document["evidence"]
    return evidence


def test_it_is_asked_only_with_a_base(made: dict[str, Path]) -> None:
    assert all_answers(inspect(made["named"], values=True)) == []
    stages: list[tuple[str, int, int]] = []
    result = inspect(made["named"], values=True, base=made["base"], progress=lambda *step: stages.append(step))
    answer = pair_answer(result)
    assert (answer["verdict"], answer["best"], answer["declared"]) == ("consistent", "k-then-v", "k-then-v")
    assert answer["sentence"] == "the weights are consistent with to_k_ip and to_v_ip as named (Z 27, next 1)"
    assert [step for step in stages if step[0] == "K/V pairs"] == [("K/V pairs", done, 16) for done in range(1, 17)]
    assert not any(finding.code == "kv-pairs" for finding in result.findings)


def test_it_is_the_third_answer_of_a_whole_adapter(tmp_path: Path) -> None:
    noise = np.random.default_rng(2)
    widths = {site.path: WIDTHS[site.level] for site in UNET.sites}
    base = {
        f"{path}.{part}.weight": noise.standard_normal((width, width), dtype=np.float32)
        for path, width in widths.items()
        for part in ("to_q", "to_out.0")
    }
    file, unet = write(tmp_path / "whole.safetensors", adapter(ONE_TOKEN)), write(tmp_path / "unet.safetensors", base)
    result = inspect(file, values=True, base=unet, heads=4, dim_head=32)
    assert [(answer["question"], answer["verdict"]) for answer in all_answers(result)] == [
        ("kv-order", "consistent"),
        ("head-partition", "consistent"),
        ("kv-pairs", "none"),
    ]
    assert result.evidence is not None
    assert result.evidence[-1].sentence == ("the weights give no evidence on whether to_k_ip and to_v_ip are exchanged")


def test_a_contradiction_is_a_warning_and_nothing_is_exchanged(made: dict[str, Path]) -> None:
    result = inspect(made["exchanged"], values=True, base=made["base"])
    assert pair_answer(result)["verdict"] == "contradicts"
    finding = next(finding for finding in result.findings if finding.code == "kv-pairs")
    assert (finding.severity, finding.expected, finding.found) == ("warning", "k-then-v", "v-then-k")
    assert finding.message == (
        "the weights contradict to_k_ip and to_v_ip as named: they agree with the two exchanged (Z 27, next 1)"
    )
    assert finding.hint.startswith("nothing here exchanges them unasked")
    assert result.next_command == ""


def test_a_mapping_exchanges_them_as_the_hint_says(made: dict[str, Path], tmp_path: Path) -> None:
    mapping = tmp_path / "exchanged.toml"
    mapping.write_text(
        '[layout]\nname = "exchanged"\ntitle = "K and V exchanged"\nkind = "attention"\nseen = ["made up"]\n'
        '[numbering]\nlabel = "odd"\n[rename]\n'
        '"ip_adapter.{site}.to_k_ip.weight" = "ip_adapter.{site}.to_v_ip.weight"\n'
        '"ip_adapter.{site}.to_v_ip.weight" = "ip_adapter.{site}.to_k_ip.weight"\n'
    )
    result = inspect(made["exchanged"], values=True, base=made["base"], mapping=mapping)
    assert pair_answer(result)["verdict"] == "consistent"


def test_what_cannot_be_asked_gives_no_evidence(made: dict[str, Path], tmp_path: Path) -> None:
    _, pairs = correlated(3, strength=STRONG)
    name = "ip_adapter.9.to_v_ip.weight"
    spoilt = {
        "lacking": {key: array for key, array in pairs.items() if key != name},
        "infinite": pairs | {name: np.full_like(pairs[name], np.inf)},
        "int8": {key: array.astype(np.int8) for key, array in pairs.items()},
    }
    for kind, arrays in spoilt.items():
        path = write(tmp_path / f"{kind}.safetensors", arrays)
        assert pair_answer(inspect(path, values=True, base=made["base"]))["verdict"] == "none", kind


def test_a_base_without_values_is_a_usage_error(made: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="--base is compared with values") as caught:
        ckptfix.inspect(made["named"], base=made["base"])
    assert caught.value.hint == "add --values, or leave --base out"
    assert run(["inspect", str(made["named"]), "--base", str(made["base"])]) == 2
    assert "--base is compared with values" in capsys.readouterr().err


def test_the_command_shows_it(made: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "--values", "--base", str(made["base"]), str(made["exchanged"])]) == 1
    assert "they agree with the two exchanged" in " ".join(capsys.readouterr().out.split())
