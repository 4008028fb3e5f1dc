"""`ckptfix verify`."""

from __future__ import annotations

from pathlib import Path

import click

from ckptfix.commands.common import Command, adapter_options, json_option, limit_options
from ckptfix.commands.reports import check_report, report_option, write_report
from ckptfix.commands.settings import settings, settings_options
from ckptfix.errors import UsageError
from ckptfix.formats.limits import Limits
from ckptfix.report.progress import progress_bar
from ckptfix.report.terminal import narrate, width, write_json, write_lines

DEFAULT_FILE = "fixed.safetensors"


@click.command("verify", cls=Command, short_help="Run the image projection and prove that it computes right.")
@click.argument("file", metavar="[FILE]", required=False)
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "mps", "cpu"]),
    default="auto",
    show_default=True,
    help="Where to run; auto takes a GPU that works, else the CPU, and says so.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Arithmetic of the run.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise that is fed in.")
@click.option("--record", metavar="REC.safetensors", help="Keep input, output and configuration of the run.")
@click.option("--against", metavar="REC.safetensors", help="Compare with a recorded run; exit 1 over the bound.")
@click.option("--proof", metavar="PROOF.json", help="Check the file against the proof that convert wrote.")
@click.option("--resampler-only", is_flag=True, help="Accept a file that holds the image projection alone.")
@adapter_options
@click.option("--force", is_flag=True, help="Replace the record, and the report, if they exist.")
@report_option
@json_option
@settings_options
@limit_options
def command(
    file: str | None,
    device: str,
    dtype: str,
    seed: int,
    record: str | None,
    against: str | None,
    proof: str | None,
    resampler_only: bool,
    layout: str | None,
    mapping: str | None,
    heads: int | None,
    dim_head: int | None,
    force: bool,
    report: str | None,
    as_json: bool,
    limits: Limits,
) -> int:
    """Run the image projection and prove that it computes right.

    Loads every image-projection tensor strictly into the reference Resampler
    and runs noise through it. Passes only if the output is finite, varies,
    agrees with an independent float64 recomputation, and depends on every
    tensor; and if the K/V pairs are complete. FILE defaults to
    ./fixed.safetensors. Needs torch; code in the file is never run.

    \b
    Examples:
        ckptfix verify fixed.safetensors
        ckptfix verify fixed.safetensors --device cuda --dtype float16
        ckptfix verify fixed.safetensors --record golden.safetensors
        ckptfix verify other.safetensors --against golden.safetensors
        ckptfix verify fixed.safetensors --proof fixed.safetensors.proof.json
    """
    options = settings()
    chosen = file or _default_file(quiet=options.quiet)
    check_report(report, force=force, inputs=[chosen])
    from ckptfix.report.html.verification import verification_report
    from ckptfix.report.verification_page import verification_page
    from ckptfix.verification import verify

    with progress_bar(quiet=options.quiet) as progress:
        result = verify(
            chosen,
            device=device,
            dtype=dtype,
            seed=seed,
            record=record,
            against=against,
            proof=proof,
            heads=heads,
            dim_head=dim_head,
            resampler_only=resampler_only,
            layout=layout,
            mapping=mapping,
            force=force,
            limits=limits,
            progress=progress,
        )
    write_report(report, lambda: verification_report(result), force=force)
    if as_json:
        write_json(result.to_dict())
    else:
        write_lines(verification_page(result, width(), verbose=options.verbose).lines)
    return int(result.exit_code)


def _default_file(*, quiet: bool) -> str:
    if not Path(DEFAULT_FILE).is_file():
        raise UsageError(
            f"no FILE given, and there is no ./{DEFAULT_FILE} here",
            hint=f"name the file: ckptfix verify FILE; or make it first: ckptfix convert FILE --out {DEFAULT_FILE}",
            code="no-file",
        )
    if not quiet:
        narrate(f"no FILE given: verifying ./{DEFAULT_FILE}")
    return DEFAULT_FILE
