"""compat: what each program that reads adapters makes of a file as it stands, and the command that puts it right.

Every consumer's loader is replayed on names, shapes, dtypes, container and file name (`ckptfix.consumers`); a cure is
one that the same replay takes for right, or none.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Any

from ckptfix.consumers import a1111, comfyui, diffusers_loader, flux_loader, instantid_script, invokeai
from ckptfix.consumers.arrival import Arrival, Tree
from ckptfix.consumers.modules import DIM_HEAD
from ckptfix.consumers.outcome import BY_WEIGHTS, Declared, Outcome, Verdict
from ckptfix.detection import plan_for
from ckptfix.diagnosis import refuse_unsafe
from ckptfix.errors import ExitCode
from ckptfix.families.known import HeadedConfig
from ckptfix.folding import folded
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.formats.address import is_remote
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.layouts.catalogue import layout_parts
from ckptfix.layouts.claims import Choice
from ckptfix.manifest import Manifest
from ckptfix.plan import Plan, retarget
from ckptfix.reference import TRANSFORMERS

Replay = Callable[[Arrival, Declared], Outcome]
Progress = Callable[[str, int, int], None]

_LONGEST = 240  # characters of a message that are quoted; `message` in the JSON has it all
# What a consumer that looks at file names wants to see in one.
_TELLING = ("{stem}-instant_id{suffix}", "{stem}-unnorm{suffix}", "{stem}-plusv2{suffix}", "{stem}-faceid{suffix}")
_TELLING_BOTH = ("{stem}-faceid-plusv2{suffix}", "{stem}-faceid-portrait{suffix}")


@dataclass(frozen=True, slots=True)
class Reader:
    """A program that reads adapters. `attaches`: `ckptfix.attach` can stand in for its loader."""

    name: str
    replay: Replay
    source: str
    by_name: bool = False
    attaches: bool = False


READERS = (
    *(
        Reader(
            f"diffusers (low_cpu_mem_usage={low})",
            partial(diffusers_loader.load_in_diffusers, low_cpu_mem_usage=low),
            diffusers_loader.SOURCE,
            attaches=True,
        )
        for low in (True, False)
    ),
    Reader("InstantID's script", instantid_script.load_in_instantid, instantid_script.SOURCE),
    Reader("ComfyUI_IPAdapter_plus", comfyui.load_in_ipadapter_plus, comfyui.IPADAPTER_SOURCE, by_name=True),
    Reader("ComfyUI_InstantID", comfyui.load_in_comfyui_instantid, comfyui.INSTANTID_SOURCE),
    Reader("A1111 (sd-webui-controlnet)", a1111.load_in_a1111, a1111.SOURCE, by_name=True),
    Reader("InvokeAI", invokeai.load_in_invokeai, invokeai.SOURCE),
)

# What reads an adapter for FLUX; it is asked of no other.
FLUX_READERS = tuple(
    Reader(
        f"diffusers FluxPipeline (low_cpu_mem_usage={low})",
        partial(flux_loader.load_in_flux, low_cpu_mem_usage=low),
        flux_loader.SOURCE,
    )
    for low in (True, False)
)


@dataclass(frozen=True, slots=True)
class Consumer:
    """What one program does. `message` is what it shows, in full; `why` quotes it and says the rest.

    `cure` is one command or line of Python, `none: …` where there is none, "" where nothing is wrong.
    """

    name: str
    verdict: Verdict
    why: str
    cure: str
    source: str
    message: str = ""

    def to_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("name", "verdict", "why", "cure", "source", "message")}


@dataclass(frozen=True, slots=True)
class Compatibility:
    """What all of them do with one file; `declared` is what is known of it beside names and shapes."""

    manifest: Manifest
    declared: Declared
    consumers: tuple[Consumer, ...]

    @property
    def dim_head(self) -> int | None:
        """None where nothing tells it, so that 64 is assumed."""
        return self.declared.dim_head

    @property
    def exit_code(self) -> ExitCode:
        right = all(consumer.verdict == "loads" for consumer in self.consumers)
        return ExitCode.OK if right else ExitCode.PROBLEM

    def to_dict(self) -> dict[str, Any]:
        manifest = self.manifest
        status = "assumed" if self.dim_head is None else "inferred" if self.declared.asked_heads else "declared"
        return {
            "schema": "ckptfix.compat/1",
            "file": {"path": manifest.source, "bytes": manifest.size, "container": manifest.container},
            "dim_head": {"value": self.dim_head or DIM_HEAD, "status": status},
            "consumers": [consumer.to_dict() for consumer in self.consumers],
        }


def compat(
    path: str | os.PathLike[str],
    *,
    heads: int | None = None,
    dim_head: int | None = None,
    layout: str | None = None,
    values: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Compatibility:
    """What each known program makes of the file, read from its index alone unless `values` asks the weights too.

    `heads`, `dim_head` and `layout` declare what names and shapes do not show (`layout` the order of the rows).
    Raises UnreadableError for what is no checkpoint, UnsafeError, UsageError, RefusedError for heads that do not fit.
    """
    with open_checkpoint(path, limits=limits) as checkpoint:
        manifest = checkpoint.manifest
        refuse_unsafe(manifest)
        plan = plan_for(manifest, layout=layout, heads=heads, dim_head=dim_head)
        declared = _declared(plan, heads, dim_head)
        if values:
            declared = _asked(checkpoint, plan, declared, progress)
    return judge(manifest, plan, declared)


def judge(manifest: Manifest, plan: Plan, declared: Declared) -> Compatibility:
    """The same for a manifest and its plan; `declared` is what is known beside names and shapes."""
    arrival = Arrival.of(manifest)
    readers = (*FLUX_READERS, *READERS) if plan.config.unet in TRANSFORMERS else READERS
    consumers = tuple(_consumer(reader, arrival, declared, plan) for reader in readers)
    return Compatibility(manifest, declared, consumers)


def _declared(plan: Plan, heads: int | None, dim_head: int | None) -> Declared:
    order = next((layout.name for layout in plan.choice.layouts if layout.declared), None)
    if heads is not None and dim_head is None and isinstance(plan.config, HeadedConfig):
        dim_head = plan.config.dim_head
    return Declared(dim_head, order)


def _asked(checkpoint: Checkpoint, plan: Plan, declared: Declared, progress: Progress | None) -> Declared:
    """What the weights contradict takes the place of what was believed of them."""
    from ckptfix.evidence.attention_layers import file_evidence

    for answer in file_evidence(checkpoint, plan, progress):
        if answer.verdict != "contradicts":
            continue
        if answer.question == "kv-order":
            declared = replace(declared, order=answer.best, order_seen=BY_WEIGHTS)
        elif answer.dim_head is not None:
            declared = replace(declared, dim_head=answer.dim_head, heads_seen=BY_WEIGHTS)
    return declared


def _consumer(reader: Reader, arrival: Arrival, declared: Declared, plan: Plan) -> Consumer:
    outcome = reader.replay(arrival, declared)
    quoted = f'"{_cut(outcome.message)}"' if outcome.message else ""
    why = ": ".join(part for part in (quoted, outcome.why) if part)
    cure = "" if outcome.verdict == "loads" else _cure(reader, arrival, declared, plan, outcome)
    return Consumer(reader.name, outcome.verdict, why, cure, reader.source, outcome.message)


def _cut(message: str) -> str:
    one_line = " ".join(message.split())
    return one_line if len(one_line) <= _LONGEST else one_line[:_LONGEST].rstrip() + "…"


def _cure(reader: Reader, arrival: Arrival, declared: Declared, plan: Plan, outcome: Outcome) -> str:
    """The first remedy after which the replay is right."""
    if outcome.remedy == "peft":
        return "pip install peft"
    if outcome.remedy == "shortcut":
        return "pipe.unet.encoder_hid_proj.image_projection_layers[0].shortcut = True"
    for command, changed, then in (
        *_renamings(reader, arrival, declared, plan),
        *_conversions(arrival, declared, plan),
    ):
        if reader.replay(changed, then).verdict == "loads":
            return command
    if reader.attaches and not plan.refused and plan.config.unet == "sdxl" and "image_proj.latents" in plan.outputs:
        sizes = f", dim_head={declared.dim_head}" if declared.dim_head else ""
        return f"ckptfix.attach(pipe, {plan.manifest.source!r}{sizes})"
    if plan.missing:
        return f"none: the file lacks {folded(plan.missing)}, and weights are never made up"
    if not plan.known:
        return "none: no known layout explains its names"
    base = TRANSFORMERS.get(plan.config.unet or "")
    if base is not None and reader not in FLUX_READERS:
        return f"none: the adapter was made for {base.title}, and {reader.name.split(' (')[0]} does not read it there"
    return f"none: {reader.name.split(' (')[0]} has no place for an adapter of this kind and these sizes"


Change = tuple[str, Arrival, Declared]


def _renamings(reader: Reader, arrival: Arrival, declared: Declared, plan: Plan) -> Iterator[Change]:
    """The file under another name: a true suffix, a name that says what it is where the reader looks for that."""
    remote = is_remote(plan.manifest.source)
    path = PurePath(arrival.name if remote else plan.manifest.source)
    suffix = ".safetensors" if arrival.is_safetensors else ".bin"
    kept = path.suffix if path.suffix.lower() == suffix or suffix == ".bin" != path.suffix.lower() else suffix
    if arrival.name.lower().endswith(".safetensors") and not arrival.is_safetensors:
        kept = suffix
    names = ["{stem}{suffix}", *(_TELLING + _TELLING_BOTH if reader.by_name else ())]
    for pattern in names:
        name = pattern.format(stem=path.stem, suffix=kept)
        if name != path.name:
            new = path.with_name(name)
            move = f"mv {shlex.quote(str(path))} {shlex.quote(str(new))}"
            yield f"download it as {name}" if remote else move, arrival.renamed(name), declared


def _conversions(arrival: Arrival, declared: Declared, plan: Plan) -> Iterator[Change]:
    """What convert would write: the canonical file under names that say more and more, then InstantID's nested one."""
    if plan.refused:
        return
    options = []
    if declared.order is not None and any(layout.name == declared.order for layout in plan.choice.layouts):
        options += ["--layout", declared.order]
    if declared.dim_head is not None:
        options += ["--dim-head", str(declared.dim_head)]
    then = replace(declared, order=None)
    flat: Tree = {name: plan.outputs[name].shape for name in sorted(plan.outputs)}
    nested: Tree = {
        group: {name.removeprefix(f"{group}."): flat[name] for name in plan.outputs if name.startswith(f"{group}.")}
        for group in ("image_proj", "ip_adapter")
    }
    whole = replace(arrival, stops=frozenset(), deflated_end=None)
    convert = " ".join(["ckptfix convert", shlex.quote(plan.manifest.source), *options])
    for pattern in ("{stem}{suffix}", *_TELLING, *_TELLING_BOTH):
        name = pattern.format(stem="fixed", suffix=".safetensors")
        yield f"{convert} --out {name}", replace(whole, name=name, is_safetensors=True, tree=flat), then
    if plan.choice.base == "flux-double":
        parts = layout_parts("flux-xlabs")
        steps = retarget(plan, Choice((), parts["wrapper"], parts["projection"], parts["attention"]))
        named: Tree = {name: view.shape for step in steps for name, view in zip(step.outputs, step.views, strict=True)}
        other = replace(whole, name="fixed.safetensors", is_safetensors=True, tree=dict(sorted(named.items())))
        yield f"{convert} --to flux-xlabs --out fixed.safetensors", other, then
    name = "instantid.bin"
    yield f"{convert} --to instantid --out {name}", replace(whole, name=name, is_safetensors=False, tree=nested), then
