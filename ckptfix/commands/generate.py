"""`ckptfix generate`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import click

from ckptfix.commands.common import Command, adapter_options, json_option
from ckptfix.commands.settings import settings, settings_options
from ckptfix.report.progress import progress_bar
from ckptfix.report.terminal import is_terminal, narrate, width, write_json, write_lines

_FILE = click.Path(path_type=Path)


@click.command("generate", cls=Command, short_help="Make a picture of a face with an adapter and an SDXL base.")
@click.option("--face", "faces", metavar="IMG", multiple=True, type=_FILE, help="Picture of the person; several: mean.")
@click.option(
    "--adapter",
    metavar="FILE",
    type=_FILE,
    help="Default: ./fixed.safetensors, ./ip-adapter.safetensors, ./ip-adapter.bin.",
)
@click.option("--base", metavar="ID|DIR|FILE", help="SDXL base; `tiny` is a wiring self-test that paints noise.")
@click.option("--base-config", metavar="ID|DIR", help="Configs and tokenizers for a single-file base.")
@click.option(
    "--controlnet", metavar="ID|DIR", help="IdentityNet. Default: ./ControlNetModel, else InstantX/InstantID."
)
@click.option("--no-controlnet", is_flag=True, default=None, help="Do without: likeness, but no place for the face.")
@click.option("--prompt", metavar="TEXT", help="What to paint.")
@click.option("--negative-prompt", metavar="TEXT", help="What to avoid. Default: InstantID's own.")
@click.option("--seed", type=int, help="Default: a random one, printed. Further pictures count up from it.")
@click.option("--steps", type=int, help="Default: 30.")
@click.option("--guidance", type=float, help="How closely to follow the prompt; 1 or less: no guidance. Default: 5.")
@click.option("--ip-scale", type=float, help="Weight of the face in the UNet. Default: 0.8.")
@click.option("--cn-scale", type=float, help="Weight of the IdentityNet. Default: 0.8.")
@click.option("--width", "across", type=int, help="Pixels, a multiple of 64. Default: from the face picture.")
@click.option("--height", "down", type=int, help="Pixels, a multiple of 64. Default: from the face picture.")
@click.option("--scheduler", metavar="NAME", help="euler (default), euler-a, ddim, dpm++, dpm++-karras, lcm or unipc.")
@click.option("--num-images", type=int, default=1, show_default=True, help="Pictures, one after the other.")
@click.option("--embedding", metavar="E.npy", type=_FILE, help="The face as 512 raw numbers, instead of a face pack.")
@click.option("--kps", metavar="K.json", type=_FILE, help="Five points [[x, y], …] in output pixels.")
@click.option("--pose", metavar="IMG", type=_FILE, help="Picture whose face says where the face goes.")
@click.option("--face-index", type=int, help="Which face, 0 is the largest.")
@click.option("--face-model", metavar="DIR", type=_FILE, help="Folder of insightface's antelopev2.")
@click.option("--face-detector", metavar="FILE", type=_FILE, help="A YuNet model (.onnx) to find faces with.")
@click.option("--save-embedding", metavar="E.npy", type=_FILE, help="Keep the embedding. It identifies a person.")
@click.option("--save-kps", metavar="K.json", type=_FILE, help="Keep the five points.")
@click.option("--lora", metavar="FILE", type=_FILE, help="An SDXL LoRA (.safetensors).")
@click.option("--lora-scale", type=float, help="Default: 1.")
@click.option("--device", type=click.Choice(["auto", "cuda", "mps", "cpu"]), default="auto", show_default=True)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Default: float16, on a CPU float32."
)
@click.option(
    "--offload",
    type=click.Choice(["none", "model", "sequential"]),
    default="none",
    show_default=True,
    help="Keep parts in main memory: slower, smaller on the GPU.",
)
@click.option("--vae-tiling", is_flag=True, default=None, help="Decode in tiles: less memory at the end.")
@click.option("--output", "--out", "-o", "output", metavar="PNG", type=_FILE, help="Default: instantid-SEED.png.")
@click.option("--from", "repeat", metavar="PNG", type=_FILE, help="Repeat a picture of generate's; options override.")
@click.option("--no-metadata", is_flag=True, help="Write no settings into the PNG.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@adapter_options
@click.option("--skip-verify", is_flag=True, help="Do not check the adapter before it is used.")
@click.option("--allow-download", is_flag=True, help="Fetch a base or ControlNet that is missing. Never face models.")
@click.option("--yes", is_flag=True, help="Start a long CPU run, or one that may not fit the memory, without asking.")
@click.option("--dry-run", is_flag=True, help="Check everything, run the Resampler, make no picture.")
@json_option
@settings_options
def command(
    across: int | None, down: int | None, mapping: str | None, no_metadata: bool, as_json: bool, **options: Any
) -> int:
    """Make a picture of a face with an adapter and an SDXL base.

    Looks at every piece first, for seconds, and shows all that is missing at
    once, with the command to get it. Then runs diffusers' stock pipeline with
    the adapter's own Resampler and InstantID's IdentityNet. Nothing is
    downloaded without --allow-download.

    \b
    Examples:
        ckptfix generate --face img.jpg
        ckptfix generate --face img.jpg --base tiny
        ckptfix generate --face img.jpg --dry-run
        ckptfix generate --embedding e.npy --kps k.json --base ./sdxl --seed 7
        ckptfix generate --from instantid-7.png --face img.jpg
    """
    from ckptfix.generation import NotReadyError, Wishes, generate
    from ckptfix.report.generation_page import generation_page, problems_page

    said = settings()
    wishes = Wishes(
        **options,
        width=across,
        height=down,
        mapping=Path(mapping) if mapping else None,
        metadata=not no_metadata,
    )
    say = (lambda text: None) if said.quiet else narrate
    asks = is_terminal(sys.stdin) and is_terminal(sys.stderr)
    try:
        with _Bars(quiet=said.quiet) as bars:
            result = generate(wishes, progress=bars.update, say=say, confirm=bars.ask if asks else None)
    except NotReadyError as error:
        for line in problems_page(error, width()).lines:
            narrate("".join(text for text, _ in line), line[-1][1] if line else "")
        if as_json:
            write_json(error.to_dict())
        return int(error.exit_code)
    if as_json:
        write_json(result.to_dict())
    else:
        write_lines(generation_page(result, width(), verbose=said.verbose).lines)
    return int(result.exit_code)


class _Bars:
    """The progress bar, taken away while a question is asked."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._stack = ExitStack()
        self._bar: Callable[[str, int, int], None] | None = None

    def __enter__(self) -> Self:
        self._bar = self._stack.enter_context(progress_bar(quiet=self._quiet))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def update(self, stage: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar(stage, done, total)

    def ask(self, estimate: str) -> bool:
        self._stack.close()
        try:
            return click.confirm(f"{estimate}. Start?", err=True)
        finally:
            self.__enter__()
