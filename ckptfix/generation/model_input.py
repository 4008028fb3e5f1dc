"""The base and the ControlNet: found here or in the cache, fetched only when that was allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptfix.errors import CkptfixError, UnavailableError
from ckptfix.generation.gathering import Gathering
from ckptfix.generation.models import Base, ControlNet, read_base, read_controlnet, read_single_file
from ckptfix.generation.places import HubId, hub_id, locate
from ckptfix.generation.wishes import DEFAULT_BASE, DEFAULT_CONTROLNET, Wishes
from ckptfix.text import printable

# What is fetched of a repository: never a pickle, and of a base one variant only.
_SMALL: Final = ("*.json", "*.txt")
_LOCAL_CONTROLNETS: Final = ("ControlNetModel", "checkpoints/ControlNetModel")
_CONTROLNET_COMMAND: Final = "hf download InstantX/InstantID --include 'ControlNetModel/*' --local-dir ."
_SIZES: Final = {DEFAULT_BASE: "6.9 GB in fp16", DEFAULT_CONTROLNET: "2.5 GB"}


@dataclass(frozen=True, slots=True)
class Download:
    """Part of a repository that is wanted and not in the cache."""

    piece: str
    place: HubId
    patterns: tuple[str, ...]


def find_base(wishes: Wishes, gathering: Gathering, downloads: list[Download], *, half: bool) -> Base | None:
    """None if it is to be fetched first. UnavailableError: not here; UsageError: no such path."""
    name = wishes.base or DEFAULT_BASE
    place = locate(name, "--base", "an SDXL base")
    if isinstance(place, Path):
        base = _local_base(place, wishes, gathering, downloads, half=half)
    else:
        base = _cached_base(place, wishes, downloads, half=half)
    if base is not None:
        gathering.found("base", f"{printable(base.name)} in {printable(str(base.path.parent))}", base.bytes)
    return base


def _local_base(
    path: Path, wishes: Wishes, gathering: Gathering, downloads: list[Download], *, half: bool
) -> Base | None:
    if path.is_dir():
        return read_base(path, path.resolve().name, half=half)
    place = locate(wishes.base_config or DEFAULT_BASE, "--base-config", "an SDXL base's configs")
    folder = place if isinstance(place, Path) else place.folder
    if folder is not None and (folder / "tokenizer_2").is_dir() and (folder / "model_index.json").is_file():
        return read_single_file(path, path.name, folder)
    if isinstance(place, HubId) and wishes.allow_download:
        downloads.append(Download("base", place, _SMALL))
        return None
    where = f"in {printable(str(place))}" if isinstance(place, Path) else _looked(place)
    raise UnavailableError(
        f"a single-file base does not hold the tokenizers and configs of SDXL, and they are not {where}",
        hint=f"fetch them (5 MB): hf download {DEFAULT_BASE} --include '*.json' --include '*.txt'; or name a folder "
        "that has them: --base-config DIR",
        code="base-config",
        source=printable(str(path)),
    )


def _cached_base(place: HubId, wishes: Wishes, downloads: list[Download], *, half: bool) -> Base | None:
    patterns = (*_SMALL, "*/*.fp16.safetensors") if half or place.repo == DEFAULT_BASE else (*_SMALL, "*/*.safetensors")
    if place.folder is None:
        if wishes.allow_download:
            downloads.append(Download("base", place, patterns))
            return None
        raise _not_here(
            "base",
            f"no SDXL base: {printable(place.name)} is not {_looked(place)}",
            place,
            f"hf download {printable(place.repo)} " + " ".join(f"--include '{pattern}'" for pattern in patterns),
            "another one: --base DIR, FILE.safetensors or owner/name",
        )
    try:
        return read_base(place.folder, place.name, half=half)
    except CkptfixError as error:
        if error.code == "base" and wishes.allow_download:
            downloads.append(Download("base", place, patterns))
            return None
        raise


def find_controlnet(
    wishes: Wishes, gathering: Gathering, downloads: list[Download], *, half: bool
) -> ControlNet | None:
    """InstantID's, from a default place or where it was named; None if it is to be fetched first."""
    found = _named_controlnet(wishes, downloads, half=half) if wishes.controlnet else None
    if wishes.controlnet is None:
        found = _default_controlnet(wishes, downloads, half=half)
    if found is not None:
        gathering.found(
            "controlnet", f"{printable(found.name)} in {printable(str(found.path.parent))}", found.weights.bytes
        )
    return found


def _named_controlnet(wishes: Wishes, downloads: list[Download], *, half: bool) -> ControlNet | None:
    place = locate(str(wishes.controlnet), "--controlnet", "a ControlNet")
    if isinstance(place, Path):
        return read_controlnet(place, place.resolve().name, half=half)
    return _cached_controlnet(place, wishes, downloads, half=half)


def _default_controlnet(wishes: Wishes, downloads: list[Download], *, half: bool) -> ControlNet | None:
    for local in _LOCAL_CONTROLNETS:
        if Path(local).is_dir():
            return read_controlnet(Path(local), Path(local).name, half=half)
    return _cached_controlnet(hub_id(DEFAULT_CONTROLNET), wishes, downloads, half=half)


def _cached_controlnet(place: HubId, wishes: Wishes, downloads: list[Download], *, half: bool) -> ControlNet | None:
    patterns = ("ControlNetModel/*",) if place.repo == DEFAULT_CONTROLNET else ("*.json", "*.safetensors")
    inside = place.folder / "ControlNetModel" if place.folder and place.repo == DEFAULT_CONTROLNET else place.folder
    if inside is not None and inside.is_dir():
        return read_controlnet(inside, place.name, half=half)
    if wishes.allow_download:
        downloads.append(Download("controlnet", place, patterns))
        return None
    own = "./ControlNetModel, ./checkpoints/ControlNetModel" if place.repo == DEFAULT_CONTROLNET else ""
    message = f"no IdentityNet, the ControlNet that belongs to ip-adapter.bin: {printable(place.name)} is not "
    if place.repo != DEFAULT_CONTROLNET:
        message = f"no ControlNet: {printable(place.name)} is not "
    raise _not_here(
        "controlnet",
        message + _looked(place) + (f" or {own}" if own else ""),
        place,
        _CONTROLNET_COMMAND if own else f"hf download {printable(place.repo)}",
        "do without it: --no-controlnet",
    )


def _looked(place: HubId) -> str:
    return f"in the cache {printable(str(place.cache))}"


def _not_here(piece: str, message: str, place: HubId, command: str, otherwise: str) -> UnavailableError:
    size = f" ({_SIZES[place.repo]})" if place.repo in _SIZES else ""
    return UnavailableError(
        message,
        hint=f"fetch it{size}: {command}; or let ckptfix fetch it: --allow-download; or {otherwise}",
        code=piece,
        looked=[str(place.cache)],
        commands=[command],
    )


def offline_error(download: Download) -> UnavailableError:
    """HF_HUB_OFFLINE is absolute, --allow-download or not."""
    return UnavailableError(
        f"{printable(download.place.name)} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it",
        hint="unset HF_HUB_OFFLINE, or give local paths: --base DIR, --controlnet DIR",
        code="offline",
    )


def fetch(downloads: list[Download]) -> None:
    """What --allow-download allows. UnavailableError: unreachable, or not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for download in downloads:
        place = download.place
        try:
            snapshot_download(place.repo, revision=place.revision, allow_patterns=list(download.patterns))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnavailableError(
                f"{printable(place.name)} could not be fetched: {printable(reason)}",
                hint="check the name and the network (HF_ENDPOINT names a mirror, HF_TOKEN a token), or give a local "
                "path",
                code="network",
            ) from error
