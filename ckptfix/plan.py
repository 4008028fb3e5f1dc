"""A plan: what would become what, decided on names, shapes and dtypes before a byte of data is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ckptfix.dimensions import Dimensions, read_dimensions
from ckptfix.families.config import Config
from ckptfix.families.family import Family
from ckptfix.families.known import HeadedConfig, family_of
from ckptfix.layouts.claims import Choice, Claim, Claims, claim_canonical
from ckptfix.layouts.layout import SizeRule
from ckptfix.manifest import Manifest
from ckptfix.reference import DEFAULT_DIM_HEAD
from ckptfix.tensors.ops import OPS, ShapeMismatchError
from ckptfix.tensors.views import Shape, View, show

# Layouts that stock loaders read as they are, wrapper, projection and attention scheme.
CANONICAL = frozenset(
    {"nested-bin", "flat-st", "resampler", "linear", "mlp-full", "mlp-faceid", "faceid-plus", "odd", "odd+lora"}
    | {"flux-instantx", "flux-double"}
)


@dataclass(frozen=True, slots=True)
class Step:
    """One rule applied once: `inputs` are names in the file, `outputs` names in the result.

    `absent` lists inputs that the rule needs and the file lacks; such a step makes nothing. Else there is a view
    per output. `canonical` holds the canonical tensors that a step towards another layout takes.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    absent: tuple[str, ...] = ()
    views: tuple[View, ...] = ()
    canonical: tuple[str, ...] = ()

    @property
    def is_copy(self) -> bool:
        """Nothing changes, the name neither."""
        return self.op == "rename" and self.inputs == self.outputs


@dataclass(frozen=True, slots=True)
class IllShaped:
    """A tensor that is there with another shape than the rest of the file implies."""

    name: str
    inputs: tuple[str, ...]
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The canonical adapter that a manifest makes under one choice of layouts, and all that stands in the way.

    `missing` maps canonical names to the shape they should have, `unexpected` holds names as the file has them,
    `clashes` maps a canonical name to the file's names that all want to become it, `broken_sizes` holds what the layout
    says of the sizes and the file does not keep, `conditions` the file's names of what has to be zero,
    `copies` those of what has to be the copy of a tensor that is kept.
    `rivals` are other choices that explain the file as well but would write something else. `asked` names layouts that
    were asked for and do not fit, `reference` the published adapter that the sizes are compared with, `own` the file's
    own sizes in that case.
    `adapters` are the numbers of adapters in one file of which none was asked for, or another than these.
    `claimed` says that row order and heads are what the file's metadata, written by convert, says.
    """

    manifest: Manifest
    choice: Choice
    dimensions: Dimensions
    steps: tuple[Step, ...]
    dropped: tuple[tuple[str, str], ...]
    missing: Mapping[str, Shape]
    unexpected: tuple[str, ...]
    ill_shaped: tuple[IllShaped, ...]
    clashes: Mapping[str, tuple[str, ...]]
    broken_sizes: tuple[SizeRule, ...] = ()
    conditions: tuple[tuple[str, tuple[bool, ...]], ...] = ()
    copies: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    known: bool = True
    asked: str = ""
    claimed: bool = False
    adapters: tuple[str, ...] = ()
    reference: str = ""
    own: Dimensions | None = None

    @property
    def config(self) -> Config:
        return self.dimensions.config

    @property
    def shown(self) -> Dimensions:
        """The sizes that the file itself shows, whatever it is compared with."""
        return self.own or self.dimensions

    @property
    def family(self) -> Family:
        return self.dimensions.family

    @property
    def outputs(self) -> dict[str, View]:
        """Canonical name -> view, of every tensor that the plan can make."""
        return {name: view for step in self.steps for name, view in zip(step.outputs, step.views, strict=False)}

    @property
    def problems(self) -> int:
        """How much stands in the way; detection prefers the choice with the least."""
        wrong = len(self.missing) + len(self.unexpected) + len(self.ill_shaped) + 2 * len(self.clashes)
        return wrong + len(self.broken_sizes)

    @property
    def refused(self) -> bool:
        return bool(self.problems or self.rivals or self.adapters or not self.known)

    @property
    def needs_conversion(self) -> bool:
        """Whether stock loaders want other names or another row order than the file has."""
        foreign = any(layout.name not in (*CANONICAL, self.family.name) for layout in self.choice.layouts)
        return foreign or bool(self.dropped) or any(not step.is_copy for step in self.steps)

    @property
    def readers(self) -> str:
        """Who reads the file as it is, said of its layout, where that is another than the canonical one."""
        readers = next((layout.read_by for layout in self.choice.layouts if layout.read_by), "")
        return f"which {readers} read, and no other loader" if readers else "which stock loaders do not read"

    @property
    def is_record(self) -> bool:
        """A recorded run that holds its weights: a projection to be judged, not an adapter to be loaded."""
        return self.choice.wrapper is not None and self.choice.wrapper.name == "record"

    @property
    def assumptions(self) -> tuple[str, ...]:
        return self.projection_assumptions + self.pair_assumptions if self.known else ()

    @property
    def projection_assumptions(self) -> tuple[str, ...]:
        """What no shape shows of the projection: the number of heads, then the order of rows."""
        config = self.config
        if not isinstance(config, HeadedConfig):
            return ()
        order = next((part for part in self.choice.layouts if part.declared and part.kind != "attention"), None)
        said = "the file's metadata says" if self.claimed else "--layout {} declares"
        rows = f"row order as {said.format(order.name)}" if order else "to_kv rows hold k first, head by head"
        shown = f"shapes show only their product {config.inner}"
        if config.inner % DEFAULT_DIM_HEAD:
            shown += f", which {DEFAULT_DIM_HEAD}, the published dim_head, does not divide"
        return f"heads={config.heads}, dim_head={config.dim_head} ({shown})", rows

    @property
    def pair_assumptions(self) -> tuple[str, ...]:
        """What no shape shows of the K/V pairs; names that are module paths do prove their order."""
        attention = self.choice.attention
        if attention is None or not any(name.startswith("ip_adapter.") for name in self.outputs):
            return ()
        if attention.declared:
            return (f"K/V pairs numbered as --layout {attention.name} declares",)
        if attention.numbering.label == "path":
            return ()
        order = "the order of the blocks" if self.choice.base else "the UNet's order"
        return (f"K/V pairs stand in {order} (no shape shows two of equal width exchanged)",)


def build_plan(
    manifest: Manifest,
    choice: Choice,
    claims: Claims,
    *,
    heads: int | None = None,
    dim_head: int | None = None,
    reference: Config | None = None,
) -> Plan:
    """Compares what the claims make with a whole adapter of the same sizes (or of `reference`'s).

    RefusedError if heads and dim_head cannot make the file's inner width.
    """
    shapes: dict[str, Shape] = {}
    ill_shaped: list[IllShaped] = []
    for claim in claims.claims:
        if claim.complete:
            _claim_shapes(manifest, claim, shapes, ill_shaped)
    dimensions = _dimensions(shapes, choice, heads, dim_head, reference)
    expected = dimensions.tensors()
    sizes = dimensions.head_sizes
    broken = {problem.name for problem in ill_shaped}
    fitting = [claim for claim in claims.claims if all(output in expected for output in claim.outputs)]
    made = {output: claim for claim in fitting if claim.complete for output in claim.outputs}
    for name, shape in shapes.items():
        if name in made and shape != expected[name]:
            inputs = tuple(filter(None, made[name].inputs))
            ill_shaped.append(IllShaped(name, inputs, show(expected[name]), show(shape)))
            broken.add(name)
    steps = []
    unexpected = list(claims.unexplained)
    for claim in claims.claims:
        inputs = tuple(filter(None, claim.inputs))
        if not all(output in expected for output in claim.outputs):
            unexpected.extend(inputs)
        elif not claim.complete or any(output in broken for output in claim.outputs):
            steps.append(Step(claim.rule.op, inputs, claim.outputs, claim.absent))
        else:
            views = [View.of(manifest.tensors[name]) for name in inputs]
            try:
                outputs = OPS[claim.rule.op].views(views, claim.rule.params, sizes)
            except ShapeMismatchError as error:
                ill_shaped.append(IllShaped(claim.outputs[0], inputs, error.expected, error.found))
                outputs = []
            steps.append(Step(claim.rule.op, inputs, claim.outputs, (), tuple(outputs)))
    order = {name: position for position, name in enumerate(expected)}
    file_order = {name: position for position, name in enumerate(manifest.tensors)}
    clashes = {name: tuple(names) for name, names in claims.clashes.items()}
    missing = {name: shape for name, shape in expected.items() if name not in made}
    return Plan(
        manifest,
        choice,
        dimensions,
        steps=tuple(sorted(steps, key=lambda step: min(order.get(name, len(order)) for name in step.outputs))),
        dropped=tuple(claims.dropped),
        missing=missing,
        unexpected=tuple(sorted(set(unexpected), key=file_order.__getitem__)),
        ill_shaped=tuple(ill_shaped),
        clashes=clashes,
        conditions=tuple(claims.conditions),
        copies=tuple(claims.copies),
        broken_sizes=tuple(broken_size_rules(choice, dimensions)) if not missing else (),
        adapters=_undecided(claims.adapters, choice.wrapper.adapter if choice.wrapper else ""),
        own=_dimensions(shapes, choice, heads, dim_head, None) if reference else None,
    )


def broken_size_rules(choice: Choice, dimensions: Dimensions) -> Iterator[SizeRule]:
    """What the layouts say of the sizes and this file's are not."""
    sizes = dimensions.family.sizes(dimensions.config)
    for rule in (rule for layout in choice.layouts for rule in layout.size_rules):
        if (len({sizes[name] for name in rule.sizes}) == 1) is not rule.equal:
            yield rule


def _undecided(numbers: set[str], wanted: str) -> tuple[str, ...]:
    """The numbers of adapters to choose from; none where there is one, or where the one that is wanted is there."""
    decided = wanted in numbers if wanted else len(numbers) < 2
    return () if decided else tuple(sorted(numbers, key=int))


def _claim_shapes(manifest: Manifest, claim: Claim, shapes: dict[str, Shape], ill_shaped: list[IllShaped]) -> None:
    inputs = tuple(filter(None, claim.inputs))
    try:
        outputs = OPS[claim.rule.op].shapes([manifest.tensors[name].shape for name in inputs], claim.rule.params)
    except ShapeMismatchError as error:
        ill_shaped.append(IllShaped(claim.outputs[0], inputs, error.expected, error.found))
        return
    shapes.update(zip(claim.outputs, outputs, strict=True))


def _dimensions(
    shapes: Mapping[str, Shape], choice: Choice, heads: int | None, dim_head: int | None, reference: Config | None
) -> Dimensions:
    if reference is None:
        return read_dimensions(shapes, family=choice.family, heads=heads, dim_head=dim_head, base=choice.base)
    named = family_of(reference)
    found = read_dimensions({}, family=named, heads=heads, dim_head=dim_head, assumed=reference)
    return replace(found, status=dict.fromkeys(found.status, "assumed"), widths={})


def retarget(plan: Plan, target: Choice) -> list[Step]:
    """The steps that write this plan's tensors in another layout; views lead back to the source file's bytes.

    Only for a plan that is not refused: every canonical tensor is there. ShapeMismatchError if an op cannot be undone.
    """
    outputs = plan.outputs
    made_by = {name: step for step in plan.steps for name in step.outputs}
    sizes = plan.dimensions.head_sizes
    steps = []
    for claim in claim_canonical(list(outputs), target, plan.config.unet):
        if not claim.complete:
            continue
        names = [name for name in claim.inputs if name is not None]
        views = OPS[claim.rule.op].views([outputs[name] for name in names], claim.rule.params, sizes)
        sources = list(dict.fromkeys(source for name in names for source in made_by[name].inputs))
        ops = [op for op in dict.fromkeys([*(made_by[name].op for name in names), claim.rule.op]) if op != "rename"]
        steps.append(Step("+".join(ops) or "rename", tuple(sources), claim.outputs, (), tuple(views), tuple(names)))
    return steps
