"""Each way to get a mapping wrong ends in one error that names the file, the line and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfix.errors import ExitCode, MappingError
from ckptfix.layouts.catalogue import known_layouts
from ckptfix.layouts.mapping_file import load_layout

MAPPINGS = Path(__file__).parent / "fixtures" / "mappings"
KNOWN_OPS = "rename, concat, split, swap_halves, rearrange, unsqueeze, squeeze"
BAD: dict[str, tuple[int | None, str]] = {
    "declared-is-text": (4, "declared must be true or false"),
    "dotted-key-without-quotes": (5, "[rename] ties one name to one name, both as text"),
    "drop-without-names": (5, "[[drop]] needs `foreign`"),
    "empty": (None, "[layout] needs a name"),
    "empty-hole": (6, "unknown hole {}; known: block, site, adapter, param, rest"),
    "holes-differ": (9, "holes differ: 'image_proj.a.{block}.q' and 'image_proj.layers.0.0.to_q.weight'"),
    "kind": (4, "kind = 'shell' is not one of wrapper, projection, attention"),
    "name-left-out": (1, "[layout] needs a name"),
    "no-rule": (1, "the mapping has no rule: write [rename], [[tensor]] or [[drop]]"),
    "not-canonical": (6, "'latents' is no canonical name: those begin with image_proj. or ip_adapter."),
    "numbering-digits": (6, "digits must be a whole number"),
    "numbering-label": (6, "label = 'letter' is not one of odd, even, rank, path, block"),
    "numbering-base": (5, 'a base goes with label = "block", and that with a base'),
    "op-arity": (7, "op 'concat' takes two or more foreign names and one canonical name"),
    "op-left-out": (5, f"[[tensor]] needs an op; known: {KNOWN_OPS}"),
    "op-parameter": (8, "op 'split' needs `sizes` of 2 positive whole numbers, one per tensor"),
    "op-without-names": (6, "op 'rename' needs foreign and canonical names"),
    "output-written-twice": (7, "two rules write one tensor: 'image_proj.latents' and 'image_proj.latents'"),
    "overlap": (7, "two rules match one name: 'image_proj.a.{block}' and 'image_proj.a.3'"),
    "parameter-of-another-op": (9, "unknown key 'sizes' in [[tensor]] op = 'swap_halves'; known: dim"),
    "rename-is-a-list": (1, "[rename] must be a table"),
    "rest-in-rename": (6, "{rest} may stand only in [[drop]] and in a wrapper"),
    "second-drop": (10, "[[drop]] needs `why`: it is printed to whoever loses the tensor"),
    "second-of-two": (17, "op 'split' needs `sizes` of 2 positive whole numbers, one per tensor"),
    "seen-is-a-number": (4, "[layout].seen must be a text or a list of texts"),
    "seen-left-out": (1, "[layout] needs `seen`: where this layout was met (repository and file, or issue)"),
    "tensor-is-a-table": (5, "tensor must be written as [[tensor]]"),
    "two-drops-overlap": (10, "two drops match one name: 'unet.{rest}' and 'unet.mid.{rest}'"),
    "two-holes-in-one-component": (6, "two holes in one component of 'image_proj.l{block}_{param}'"),
    "unbalanced-brace": (6, "unbalanced braces in 'image_proj.{block.q'"),
    "unknown-hole": (6, "unknown hole {layer}; known: block, site, adapter, param, rest"),
    "unknown-key": (11, "unknown key 'reason' in [[drop]]; known: copies, foreign, why, zero"),
    "unknown-op": (6, f"unknown op 'transpose'; known: {KNOWN_OPS}"),
    "unknown-table": (
        5,
        "unknown key 'renames' in the file; "
        "known: alias, drop, layout, numbering, rename, signature, sizes, strip, tensor",
    ),
    "why-left-out": (5, "[[drop]] needs `why`: it is printed to whoever loses the tensor"),
}


def load(name: str) -> None:
    load_layout((MAPPINGS / f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml")


@pytest.mark.parametrize("defect", BAD)
def test_a_bad_mapping_names_its_line(defect: str) -> None:
    with pytest.raises(MappingError) as caught:
        load(f"bad-{defect}")
    line, problem = BAD[defect]
    where = f"line {line}: " if line else ""
    assert str(caught.value) == f"bad-{defect}.toml: {where}{problem}"
    assert caught.value.details == {"line": line}
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hint == "`ckptfix layouts NAME` prints a mapping that works, to compare with"


def test_toml_that_is_none() -> None:
    with pytest.raises(MappingError) as caught:
        load("bad-toml-syntax")
    assert str(caught.value) == "bad-toml-syntax.toml: not valid TOML: Invalid value (at line 6, column 18)"
    assert (caught.value.details, caught.value.hint) == ({"line": 6}, "fix the line named above")


def test_every_bad_mapping_is_tried() -> None:
    found = {path.stem.removeprefix("bad-") for path in MAPPINGS.glob("bad-*.toml")}
    assert found == {*BAD, "toml-syntax"}


@pytest.mark.parametrize("name", [path.stem for path in MAPPINGS.glob("good-*.toml")])
def test_good_mappings_load(name: str) -> None:
    load(name)


def test_what_a_mapping_says() -> None:
    text = (MAPPINGS / "good-made-up.toml").read_text(encoding="utf-8")
    layout = load_layout(text, "made-up.toml")
    assert (layout.name, layout.kind, layout.seen) == ("made-up", "custom", ("tests",))
    assert (layout.numbering.label, layout.numbering.first_block, layout.declared) == ("path", 1, False)
    assert [template.text for template in layout.signature.require] == ["face.query_bank"]
    assert len(layout.rules) == 13
    assert [(drop.foreign.text, drop.why) for drop in layout.drops] == [
        ("ema.{rest}", "the running average and the step of the training"),
        ("step", "the running average and the step of the training"),
    ]


@pytest.mark.parametrize("layout", known_layouts(), ids=lambda layout: layout.name)
def test_every_line_of_a_shipped_mapping_says_the_same_inverted(layout) -> None:  # type: ignore[no-untyped-def]
    for rule in layout.rules:
        assert rule.inverted().inverted() == rule or rule.op in ("concat", "split")
        assert (rule.inverted().foreign, rule.inverted().canonical) == (rule.canonical, rule.foreign)


_words = st.sampled_from(
    ["layout", "rename", "tensor", "op", "name", "seen", "image_proj.latents", "{block}", "concat", "sizes", "x", "-1"]
)
_values = st.recursive(
    st.one_of(_words, st.integers(-3, 3), st.booleans(), st.floats(allow_nan=False)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=6,
)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(entry)}' for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


_entry = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["concat", "split", "rearrange", "unsqueeze", "squeeze", "rename", "swap_halves"])
        | _values,
        "foreign": st.just("image_proj.a") | st.just(["image_proj.a", "image_proj.b"]) | _values,
        "canonical": st.just("image_proj.latents") | _values,
        "sizes": _values,
        "from": _values | st.just(["heads", "2"]),
        "to": _values | st.just(["2", "heads"]),
        "dim": _values,
        "ndim": _values,
    },
)


@settings(max_examples=120, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["name", "title", "seen", "kind", "declared", "aliases"]), _values),
    st.lists(_entry, max_size=2),
    st.dictionaries(_words, _values, max_size=3),
    st.booleans(),
)
def test_no_mapping_breaks_the_loader(
    head: dict[str, object], tensors: list[dict[str, object]], top: dict[str, object], whole: bool
) -> None:
    """Whatever a mapping holds, it loads or is a MappingError."""
    head = {"name": "x", "title": "x", "seen": "tests"} if whole else head
    tables = {**top, "layout": head, "tensor": tensors} | (
        {} if tensors else {"rename": {"image_proj.a": "ip_adapter.b"}}
    )
    text = "\n".join(f'"{key}" = {_toml(value)}' for key, value in tables.items())
    try:
        load_layout(text, "made.toml")
    except MappingError as error:
        assert str(error).startswith("made.toml: ")
