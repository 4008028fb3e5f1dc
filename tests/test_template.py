"""Templates match whole names or nothing, fill back, and no overlap of two goes unseen."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfix.layouts.template import HOLE, Template, TemplateIndex, overlap

MATCHES = [
    ("image_proj.latents", "image_proj.latents", {}),
    ("image_proj.layers.{block}.0.to_q.weight", "image_proj.layers.11.0.to_q.weight", {"block": "11"}),
    ("image_proj.layers.{block}.1.0.{param}", "image_proj.layers.3.1.0.bias", {"block": "3", "param": "bias"}),
    ("T.Layer_{block}.{param}", "T.Layer_07.weight", {"block": "07", "param": "weight"}),
    ("unet.{rest}", "unet.a.b.c", {"rest": "a.b.c"}),
    ("{rest}", "latents", {"rest": "latents"}),
    ("{rest}.tail", "a.b.tail", {"rest": "a.b"}),
    ("{block}.twin.{block}", "4.twin.4", {"block": "4"}),
]
MISSES = [
    ("image_proj.latents", "image_proj.latents.x"),
    ("image_proj.latents", "x.image_proj.latents"),
    ("image_proj.layers.{block}.0", "image_proj.layers.a.0"),
    ("image_proj.layers.{block}.0", "image_proj.layers..0"),
    ("image_proj.layers.{block}.0", "image_proj.layers.-1.0"),
    ("image_proj.layers.{block}.0", "image_proj.layers.1234567.0"),
    ("image_proj.layers.{block}.0", "image_proj.layers.٣.0"),
    ("image_proj.norm.{param}", "image_proj.norm.scale"),
    ("T.Layer_{block}", "T.Layer_"),
    ("unet.{rest}", "unet"),
    ("unet.{rest}", "unet2.a"),
    ("{block}.twin.{block}", "4.twin.5"),
]


def index_of(template: Template) -> TemplateIndex[str]:
    index: TemplateIndex[str] = TemplateIndex()
    index.add(template, template.text)
    return index


@pytest.mark.parametrize(("text", "name", "holes"), MATCHES)
def test_a_name_fills_a_template_and_comes_back(text: str, name: str, holes: dict[str, str]) -> None:
    assert index_of(Template(text)).match(name) == (text, holes)
    assert Template(text).fill(holes) == name


@pytest.mark.parametrize(("text", "name"), MISSES)
def test_a_name_that_does_not_fill_a_template(text: str, name: str) -> None:
    assert index_of(Template(text)).match(name) is None


def test_a_site_is_a_number_or_a_path() -> None:
    assert index_of(Template("{site}.k", site_is_path=True)).match("mid.attn2.k") == ("{site}.k", {"site": "mid.attn2"})
    assert index_of(Template("{site}.k")).match("mid.attn2.k") is None
    assert index_of(Template("{site}.k")).match("31.k") == ("{site}.k", {"site": "31"})


@pytest.mark.parametrize("turned", [False, True])
def test_the_order_of_adding_does_not_matter(turned: bool) -> None:
    texts = ["layers.{block}.{param}", "layers.{block}.bias2", "layers.0.weight", "layers.{rest}"]
    index: TemplateIndex[str] = TemplateIndex()
    for text in reversed(texts[:3]) if turned else texts[:3]:
        index.add(Template(text), text)
    found = {name: index.match(name) for name in ("layers.0.weight", "layers.1.weight", "layers.0.bias", "layers.0.x")}
    assert {name: match[0] if match else None for name, match in found.items()} == {
        "layers.0.weight": "layers.0.weight",
        "layers.1.weight": "layers.{block}.{param}",
        "layers.0.bias": "layers.{block}.{param}",
        "layers.0.x": None,
    }


OVERLAPS = [
    ("a.{block}", "a.{site}", True),
    ("a.{block}", "a.{param}", False),
    ("a.{block}", "a.7", True),
    ("a.{block}", "a.x", False),
    ("a.{param}", "a.bias", True),
    ("a.x{block}", "a.x7", True),
    ("a.x{block}", "a.y7", False),
    ("weight{block}", "{param}1", True),
    ("unet.{rest}", "unet.{block}", True),
    ("unet.{rest}", "unet", False),
    ("{rest}.b.c", "{rest}.c", True),
    ("{rest}.a", "{rest}.b", False),
    ("x{rest}", "xy.z.t", True),
    ("x{rest}", "y.z", False),
    ("{rest}", "anything.at.all", True),
]


@pytest.mark.parametrize(("first", "second", "expected"), OVERLAPS)
def test_overlaps_known_by_hand(first: str, second: str, expected: bool) -> None:
    assert overlap(Template(first), Template(second)) is expected
    assert overlap(Template(second), Template(first)) is expected


def _component() -> st.SearchStrategy[str]:
    hole = st.sampled_from(["{block}", "{site}", "{param}", "{rest}"])
    text = st.sampled_from(["", "", "a", "1", "weight", "b"])
    literal = st.sampled_from(["a", "b", "1", "12", "weight", "bias", "a1", "weight1"])
    return st.one_of(literal, st.builds(lambda before, middle, after: before + middle + after, text, hole, text))


templates = st.builds(
    Template, st.lists(_component(), min_size=1, max_size=4).map(".".join), site_is_path=st.booleans()
)
values = st.sampled_from(["0", "1", "12", "weight", "bias", "a", "b", "a.b", "1.weight", "a.1", "weight.a1", "b.b"])


@settings(max_examples=300, deadline=None)
@given(templates, templates, st.data())
def test_no_overlap_goes_unseen(first: Template, second: Template, data: st.DataObject) -> None:
    """Whatever name fills both, `overlap` said so."""
    holes = {hole: data.draw(values, hole) for hole in ("block", "site", "param", "rest")}
    name = first.fill(holes)
    if index_of(first).match(name) and index_of(second).match(name):
        assert overlap(first, second)
        assert overlap(second, first)


@settings(max_examples=150, deadline=None)
@given(templates, st.data())
def test_matching_is_what_a_plain_regex_says(template: Template, data: st.DataObject) -> None:
    names = [data.draw(templates).fill({hole: data.draw(values) for hole in ("block", "site", "param", "rest")})]
    names.append(template.fill({hole: data.draw(values) for hole in ("block", "site", "param", "rest")}))
    for name in names:
        found = index_of(template).match(name)
        assert (found is not None) == (re.fullmatch(as_regex(template), name) is not None)
        if found:
            assert template.fill(found[1]) == name


def as_regex(template: Template) -> str:
    """Written another way: one group per hole, a second occurrence refers back to the first."""
    seen: set[str] = set()
    pattern = ""
    for position, piece in enumerate(HOLE.split(template.text)):
        if position % 2 == 0:
            pattern += re.escape(piece)
        elif piece in seen:
            pattern += f"(?P={piece})"
        else:
            seen.add(piece)
            spans = template.spans_components(piece)
            inside = r".+" if spans else "weight|bias" if piece == "param" else "[0-9]{1,6}"
            pattern += f"(?P<{piece}>{inside})"
    return pattern
