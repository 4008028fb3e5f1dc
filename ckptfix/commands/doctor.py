"""`ckptfix doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from ckptfix.commands.common import Command, json_option
from ckptfix.commands.settings import settings, settings_options
from ckptfix.errors import UsageError
from ckptfix.report.doctor_page import checkup_page, faces_page
from ckptfix.report.terminal import width, write_json, write_lines


@click.command("doctor", cls=Command, short_help="Check the environment, or the face models.")
@click.argument("topic", metavar="[faces]", type=click.Choice(["faces"]), required=False)
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
@click.option("--fix", is_flag=True, help="With faces: move nested files to their place; never over another file.")
@json_option
@settings_options
def command(topic: str | None, folder: Path | None, fix: bool, as_json: bool) -> int:
    """Check the environment, or the face models.

    Versions, devices, memory, disk, caches and variables, and a block to
    paste into a bug report, without paths and secrets. `doctor faces` looks
    at insightface's antelopev2 in DIR, or where generate looks: nested, cut,
    missing or other files. Exit code 0: nothing wrong; 1: a problem. Needs no
    torch.

    \b
    Examples:
        ckptfix doctor
        ckptfix doctor faces
        ckptfix doctor faces ~/.insightface/models/antelopev2 --fix
    """
    if topic is None:
        if fix:
            raise UsageError("--fix belongs to `doctor faces`", hint="ckptfix doctor faces --fix")
        from ckptfix.doctor import check_up

        result = check_up()
        if as_json:
            write_json(result.to_dict())
        else:
            write_lines(checkup_page(result, width(), verbose=settings().verbose).lines)
        return int(result.exit_code)
    from ckptfix.face.checkup import check_faces

    faces = check_faces(folder, fix=fix)
    if as_json:
        write_json(faces.to_dict())
    else:
        write_lines(faces_page(faces, width()).lines)
    return int(faces.exit_code)
