"""A file as a loader meets it: its name, its container, and the dictionary that comes out of reading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from ckptfix.formats.address import file_name, location
from ckptfix.manifest import Manifest
from ckptfix.tensors.views import Shape

# What a key leads to: a tensor's shape, another dictionary, or None for a value that is no tensor.
Node: TypeAlias = "Shape | dict[str, Node] | None"
Tree: TypeAlias = "dict[str, Node]"

# Findings of reading that stop torch.load(weights_only=True), the default since torch 2.6; a gzip or zip around the
# file, an archive packed anew, an object of a class that is not on torch's list (torch/_weights_only_unpickler.py).
_STOPS_TORCH = frozenset({"gzip", "zip", "archive", "foreign-object"})
_WRAPPED = frozenset({"gzip", "zip"})
_UNPICKLING = "_pickle.UnpicklingError: Weights only load failed."
_HEADER = "safetensors.SafetensorError: Error while deserializing header: header too large"


class Raised(Exception):  # noqa: N818
    """What the loader that is replayed would raise: `TypeName: message`, to be quoted."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """`name` is the file's own name, without folders; `tree` is in the order of the file's dictionary."""

    name: str
    is_safetensors: bool
    tree: Tree
    dtypes: frozenset[str]
    size: int
    stops: frozenset[str] = frozenset()
    deflated_end: int | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> Arrival:
        """`deflated_end`: where the last deflated record would end if its bytes lay there as tensors see them."""
        ends = [record.position + record.size for record in manifest.records.values() if record.deflated]
        return cls(
            name=file_name(location(manifest.source)),
            is_safetensors=manifest.container == "safetensors",
            tree=_tree(manifest),
            dtypes=frozenset(tensor.dtype.name for tensor in manifest.tensors.values()),
            size=manifest.size,
            stops=frozenset(finding.code for finding in manifest.findings) & _STOPS_TORCH,
            deflated_end=max(ends, default=None),
        )

    def renamed(self, name: str) -> Arrival:
        return replace(self, name=name)


def _tree(manifest: Manifest) -> Tree:
    tree: Tree = {}
    names = sorted(manifest.tensors) if manifest.container == "safetensors" else list(manifest.tensors)
    for name in names:  # safetensors sorts its keys as text
        tensor = manifest.tensors[name]
        _put(tree, tensor.path or (name,), tensor.shape)
    for name, words in manifest.objects.items():
        if "_metadata" not in name.split("."):  # torch's own note on a state dict is no key of it
            _put(tree, _path_of(tree, name), {} if words == "empty dict" else None)
    return tree


def _path_of(tree: Tree, name: str) -> tuple[str, ...]:
    """The keys that lead to an object: its dotted name is taken apart only where dictionaries are known."""
    path: list[str] = []
    node: Node = tree
    while isinstance(node, dict):
        first, dot, rest = name.partition(".")
        if not dot or not isinstance(node.get(first), dict):
            break
        path.append(first)
        node, name = node[first], rest
    return (*path, name)


def _put(tree: Tree, path: tuple[str, ...], value: Node) -> None:
    for key in path[:-1]:
        inner = tree.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        tree = inner
    tree.setdefault(path[-1], value)


def open_safetensors(arrival: Arrival) -> Tree:
    """What `safetensors.safe_open` and `load_file` give."""
    if not arrival.is_safetensors or arrival.stops & _WRAPPED:
        raise Raised(_HEADER)
    return arrival.tree


def torch_load(arrival: Arrival) -> Tree:
    """What `torch.load(file)` gives, `weights_only=True` as by default. Source: pytorch, torch/serialization.py."""
    if arrival.is_safetensors or arrival.stops:
        raise Raised(_UNPICKLING)
    return arrival.tree


def split_groups(tree: Tree, prefixes: Mapping[str, str]) -> dict[str, Tree]:
    """Flat names divided by their prefix: prefix -> group. Loaders take the prefix off with `str.replace`, and so
    wherever it occurs."""
    groups: dict[str, Tree] = {group: {} for group in prefixes.values()}
    for name, node in tree.items():
        for prefix, group in prefixes.items():
            if name.startswith(prefix):
                groups[group][name.replace(prefix, "")] = node
                break
    return groups


def group(tree: Tree, name: str) -> Tree:
    """One group of a nested dictionary. Raises what `tree[name]` would."""
    if name not in tree:
        raise Raised(f"KeyError: {name!r}")
    found = tree[name]
    if not isinstance(found, dict):
        raise Raised(f"TypeError: {name} is not a dictionary")
    return found


def axis(tree: Tree, name: str, number: int) -> int:
    """`tree[name].shape[number]`. Raises what that would."""
    if name not in tree:
        raise Raised(f"KeyError: {name!r}")
    shape = tree[name]
    if not isinstance(shape, tuple):
        raise Raised("AttributeError: 'dict' object has no attribute 'shape'")
    if not -len(shape) <= number < len(shape):
        raise Raised("IndexError: tuple index out of range")
    return shape[number]


def site_number(name: str) -> int:
    """`int(name.split(".")[0])`. Raises what that would."""
    try:
        return int(name.split(".")[0])
    except ValueError as error:
        raise Raised(f"ValueError: {error}") from error
