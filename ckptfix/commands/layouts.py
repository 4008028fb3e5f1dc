"""`ckptfix layouts`."""

from __future__ import annotations

import click

from ckptfix.commands.common import Command, json_option
from ckptfix.commands.settings import settings_options
from ckptfix.layouts.catalogue import NAMED, known_layouts, layout_parts
from ckptfix.layouts.layout import Layout
from ckptfix.look_alikes import LOOK_ALIKES
from ckptfix.products import PRODUCTS
from ckptfix.report.layout_page import (
    catalogue_document,
    layout_document,
    layout_page,
    layouts_page,
    look_alike_page,
    product_page,
)
from ckptfix.report.terminal import width, write_json, write_lines


@click.command("layouts", cls=Command, short_help="List the known layouts, or print the rules of one.")
@click.argument("name", required=False)
@json_option
@settings_options
def command(name: str | None, as_json: bool) -> None:
    """List the known layouts, or print the rules of one.

    A layout is one way of naming and packing the tensors of an adapter. Up to
    three compose: a wrapper, a projection and an attention scheme, joined
    with +. A mapping of your own for --mapping looks like the files listed
    here. The published adapters and the look-alikes are listed too.

    \b
    Examples:
        ckptfix layouts
        ckptfix layouts resampler-queries
        ckptfix layouts nested-bin+resampler-split-kv+odd
    """
    found = next((row for row in LOOK_ALIKES if row.name == name), None)
    product = PRODUCTS.get(name or "")
    layouts: tuple[Layout, ...] = ()
    if found is None and (product is None or name in NAMED):
        layouts = tuple(layout_parts(name).values()) if name else known_layouts()
    if as_json:
        documents = [layout_document(layout, rules=bool(name)) for layout in layouts]
        known = catalogue_document()
        if name:
            known = {kind: [row for row in rows if row["name"] == name] for kind, rows in known.items()}
        write_json({"schema": "ckptfix.layouts/1", "layouts": documents, **known})
    elif found is not None:
        write_lines(look_alike_page(found, width()).lines)
    elif product is not None and name not in NAMED:
        write_lines(product_page(product, width()).lines)
    elif name:
        write_lines(layout_page(layouts, width()).lines)
    else:
        write_lines(layouts_page(layouts, width()).lines)
