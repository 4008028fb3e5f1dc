"""Walks over what a pickle built, without recursion and within budgets, and says in a few words what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ckptfix.errors import UnreadableError
from ckptfix.formats.limits import Limits, limit_error
from ckptfix.formats.pickle_nodes import Call, Global, Long, PersistentId, PickledDict, PickledSet
from ckptfix.text import plural, printable

_SHOWN_OBJECTS = 500
_PLAIN = (str, int, float, bytes, Long, Global, type(None))

Child = tuple[str, Any]


class Tree:
    """The values below a root. `walk` yields the leaves wanted; what else there is goes to `objects` by dotted path."""

    def __init__(self, root: Any, wanted: Callable[[Any], bool], limits: Limits) -> None:
        self.objects: dict[str, str] = {}
        self._root = root
        self._wanted = wanted
        self._limits = limits
        self._visited = 0
        self._more_objects = 0

    def walk(self) -> Iterator[tuple[tuple[str, ...], Call]]:
        """Path and node of each wanted leaf, in the file's order."""
        if self._wanted(self._root):
            yield (), self._root
            return
        path: list[str] = []
        levels = [self._enter(path, self._root)]
        while levels:
            child = next(levels[-1], None)
            if child is None:
                levels.pop()
                if path:
                    path.pop()
                continue
            path.append(child[0])
            if self._wanted(child[1]):
                yield tuple(path), child[1]
                path.pop()
                continue
            if len(levels) >= self._limits.depth:
                raise limit_error("depth", f"values are nested over {self._limits.depth} deep")
            levels.append(self._enter(path, child[1]))
        if self._more_objects:
            self.objects["…"] = f"{self._more_objects:,} more"

    def _enter(self, path: list[str], node: Any) -> Iterator[Child]:
        """The children of a node; a node without any becomes one of `objects`."""
        children = self._children(node)
        if not children:
            self._note(path, node)
        return iter(children)

    def _note(self, path: list[str], node: Any) -> None:
        if len(self.objects) >= _SHOWN_OBJECTS:
            self._more_objects += 1
        else:
            self.objects[printable(".".join(path)) or "(root)"] = describe(node)

    def _children(self, node: Any) -> list[Child]:
        children: list[Child] = []
        if isinstance(node, PickledDict):
            self._count(len(node.items or ()) // 2)
            children = self._named(node)
        elif isinstance(node, (list, tuple)):
            self._count(len(node))
            if not all(isinstance(value, _PLAIN) for value in node):
                children = [(str(index), value) for index, value in enumerate(node)]
        elif isinstance(node, Call):
            children = self._members(node)
        return children

    def _members(self, node: Call) -> list[Child]:
        """Attributes, items and elements of an instance; of a module what `state_dict()` would name."""
        children: list[Child] = []
        for state in node.state if isinstance(node.state, tuple) else (node.state,):
            if not isinstance(state, PickledDict):
                continue
            self._count(len(state.items or ()) // 2)
            attributes = dictionary(state)
            if "_parameters" in attributes and "_modules" in attributes:
                children += self._module(attributes)
            else:
                children += self._named(state)
        for items in (node.items, node.elements):
            self._count(len(items or ()))
        if node.items:
            children += self._named(PickledDict(node.items))
        if node.elements:
            children += [(str(index), value) for index, value in enumerate(node.elements)]
        return children

    def _module(self, attributes: dict[str, Any]) -> list[Child]:
        """Parameters, persistent buffers and submodules, in the order of torch.nn.Module.state_dict."""
        hidden = attributes.get("_non_persistent_buffers_set")
        transient = _elements(hidden)
        self._count(len(transient))
        children: list[Child] = []
        for kind in ("_parameters", "_buffers", "_modules"):
            members = attributes.get(kind)
            if not isinstance(members, PickledDict):
                continue
            self._count(len(members.items or ()) // 2)
            for name, value in self._named(members):
                if value is not None and not (kind == "_buffers" and name in transient):
                    children.append((name, value))
        return children

    def _named(self, node: PickledDict) -> list[Child]:
        items = node.items or ()
        named: dict[str, tuple[type, Any]] = {}
        numbers: dict[float, str] = {}
        for index in range(0, len(items) - 1, 2):
            key = self._key(items[index], index // 2)
            kind = type(items[index])
            if (key in named and named[key][0] is not kind) or not _is_own_key(items[index], key, numbers):
                raise UnreadableError(
                    f"a dictionary has two keys that both read {printable(key)}",
                    hint="rename the keys where the file was made",
                    code="name",
                )
            named[key] = (kind, items[index + 1])
        return [(key, value) for key, (_, value) in named.items()]

    def _key(self, key: Any, index: int) -> str:
        if isinstance(key, bytes):
            key = key.decode("utf-8", "replace")
        if isinstance(key, str):
            if len(key) > self._limits.key_length:
                raise limit_error("key_length", f"a dictionary key has {len(key):,} characters")
            return key
        if key is None or (isinstance(key, float) and key == key) or (isinstance(key, int) and key.bit_length() <= 64):
            return str(key)
        return f"<key {index}>"

    def _count(self, visited: int) -> None:
        self._visited += visited
        if self._visited > self._limits.nodes:
            raise limit_error("nodes", f"the pickle has over {self._limits.nodes:,} values to look at")


def _is_own_key(key: Any, text: str, numbers: dict[float, str]) -> bool:
    """Whether a key is no other spelling of a number before it: 1, 1.0 and True are one key."""
    if not isinstance(key, int | float) or text.startswith("<"):
        return True
    return numbers.setdefault(key, text) == text


def dictionary(node: PickledDict) -> dict[str, Any]:
    """The values of a dictionary that have text keys, the last of each key."""
    items = node.items or ()
    return {items[i]: items[i + 1] for i in range(0, len(items) - 1, 2) if isinstance(items[i], str)}


def _elements(node: Any) -> set[str]:
    """The texts in a set, however its protocol writes it."""
    if isinstance(node, PickledSet):
        values: Any = node.elements
    elif isinstance(node, Call) and isinstance(node.arguments, tuple) and node.arguments:
        values = node.arguments[0]
    else:
        values = None
    return {value for value in values if isinstance(value, str)} if isinstance(values, (list, tuple)) else set()


def describe(node: Any) -> str:
    """A few words for one value, escaped: `int 3`, `text "adam"`, `argparse.Namespace`."""
    if node is None or isinstance(node, bool):
        return str(node)
    if isinstance(node, int):
        return f"int {node}" if node.bit_length() <= 64 else f"int of {node.bit_length():,} bits"
    if isinstance(node, float):
        return f"float {node}"
    if isinstance(node, str):
        return f'text "{printable(node, 60)}"'
    if isinstance(node, bytes):
        return plural(len(node), "byte")
    if isinstance(node, Long):
        return f"{node.kind} of {node.size:,} bytes"
    if isinstance(node, Global):
        return printable(str(node))
    return _describe_composite(node)


def _describe_composite(node: Any) -> str:
    if isinstance(node, PersistentId):
        return "storage"
    if isinstance(node, Call):
        return printable(str(node.callee)) if isinstance(node.callee, Global) else "result of a call"
    if isinstance(node, PickledDict):
        return "empty dict"
    if isinstance(node, PickledSet):
        return f"set of {len(node.elements or ()):,}"
    return f"{type(node).__name__} of {plural(len(node), 'value')}"
