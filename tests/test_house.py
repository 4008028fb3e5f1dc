"""The rules of the house: who may import whom, what is never written, and what a name may be."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ckptfix

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ckptfix"
MODULES = {
    ".".join(("ckptfix", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Who may import what is heavy or optional; everything below a package name counts.
FACES = ("ckptfix.face", "ckptfix.generation")
ROOMS = {
    "torch": (
        "ckptfix.devices",
        "ckptfix.families.modules",
        "ckptfix.generation",
        "ckptfix.loading",
        "ckptfix.proving",
        "ckptfix.resampler",
        "ckptfix.verification",
    ),
    "diffusers": ("ckptfix.generation",),
    "transformers": ("ckptfix.generation",),
    "accelerate": ("ckptfix.generation",),
    "huggingface_hub": ("ckptfix.generation",),
    "PIL": FACES,
    "cv2": FACES,
    "onnxruntime": FACES,
    "insightface": (),
    "ml_dtypes": (),
    "rich": ("ckptfix.report",),
    "click": ("ckptfix.cli", "ckptfix.commands", "ckptfix.report"),
}
# Lowest first. A module imports from its own layer and those below; a module not named here is a library module.
LAYERS = (
    ("ckptfix.errors", "ckptfix.text"),
    ("ckptfix.findings",),
    ("ckptfix.manifest",),
    ("ckptfix.formats", "ckptfix.families.config", "ckptfix.families.family", "ckptfix.tensors.views"),
    ("ckptfix.reference",),
    ("ckptfix.tensors.ops", "ckptfix.layouts.template", "ckptfix.resampler", "ckptfix.families.known"),
    ("ckptfix.families.modules", "ckptfix.products"),
    ("ckptfix.layouts.layout", "ckptfix.layouts.mapping_file"),
    ("ckptfix.layouts.catalogue", "ckptfix.layouts.claims", "ckptfix.dimensions"),
    ("ckptfix.plan",),
    ("ckptfix.identity",),
    ("ckptfix.detection",),
    (
        "ckptfix.conversion",
        "ckptfix.doctor",
        "ckptfix.explanation",
        "ckptfix.inspection",
        "ckptfix.loading",
        "ckptfix.verification",
    ),
    ("ckptfix.demo",),
    ("ckptfix.report",),
    ("ckptfix.commands",),
    ("ckptfix.cli",),
    ("ckptfix.__main__",),
)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module: str, *, everywhere: bool) -> set[str]:
    """Full names that a module imports; at its top level, or in its functions too. TYPE_CHECKING blocks left out."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree(module)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            found.update(
                name if (name := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            )
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting.extend(node.orelse)
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def is_in(module: str, room: str) -> bool:
    """Whether it is the room itself, in it, or (`ckptfix.face.image` in `ckptfix.face`) a part named after it."""
    return module == room or module.startswith((f"{room}.", f"{room}_"))


def layer(module: str) -> int | None:
    return next(
        (
            number
            for number, names in enumerate(LAYERS)
            if any(module == name or module.startswith(f"{name}.") for name in names)
        ),
        None,
    )


def calls(module: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(module)) if isinstance(node, ast.Call))


def test_the_modules_are_found() -> None:
    assert {"ckptfix", "ckptfix.cli", "ckptfix.formats", "ckptfix.formats.atomic"} <= MODULES.keys()


@pytest.mark.parametrize("library", ROOMS)
def test_heavy_libraries_stay_in_their_rooms(library: str) -> None:
    users = {
        module for module in MODULES if any(name.split(".")[0] == library for name in imports(module, everywhere=True))
    }
    assert {user for user in users if not any(is_in(user, room) for room in ROOMS[library])} == set()


def test_a_module_imports_only_from_its_layer_and_below() -> None:
    wrong = []
    for module in MODULES:
        for name in imports(module, everywhere=True):
            above, below = layer(module), layer(name)
            if above is not None and below is not None and below > above:
                wrong.append(f"{module} imports {name}")
    assert [line for line in wrong if line != "ckptfix.commands.completion imports ckptfix.cli"] == []


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        module: {name for name in imports(module, everywhere=False) if name in MODULES and name != "ckptfix"}
        for module in MODULES
    }
    assert set(TopologicalSorter(graph).static_order()) >= graph.keys() - {"ckptfix"}


@pytest.mark.parametrize("room", ["report", "commands", "cli"])
def test_the_library_knows_nothing_of_the_command_line(room: str) -> None:
    front = ("ckptfix.report", "ckptfix.commands", "ckptfix.cli", "ckptfix.__main__")
    users = {
        module
        for module in MODULES
        if not module.startswith(front)
        and any(
            name == f"ckptfix.{room}" or name.startswith(f"ckptfix.{room}.")
            for name in imports(module, everywhere=True)
        )
    }
    assert users == set()


def test_formats_know_only_errors_findings_and_the_manifest() -> None:
    allowed = ("ckptfix.formats", "ckptfix.errors", "ckptfix.findings", "ckptfix.manifest", "ckptfix.text")
    wrong = {
        name
        for module in MODULES
        if module.startswith("ckptfix.formats")
        for name in imports(module, everywhere=True)
        if name.startswith("ckptfix") and not name.startswith(allowed)
    }
    assert wrong == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_weight_is_loaded_loosely_and_no_pickle_is_run(module: str) -> None:
    for call in calls(module):
        function = ast.unparse(call.func)
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        where = f"{module}:{call.lineno}"
        if function.endswith("load_state_dict"):
            loose = [ast.unparse(argument) for argument in call.args[1:2]] == ["False"]
            assert arguments.get("strict", "True") == "True" and not loose, where
        assert arguments.get("weights_only") != "False", where
        assert function not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "eval", "exec"), where
    assert not {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & imports(module, everywhere=True)


@pytest.mark.parametrize("module", MODULES)
def test_a_bug_looks_like_a_bug(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ExceptHandler):
            caught = {ast.unparse(part) for part in getattr(node.type, "elts", [node.type]) if part is not None}
            where = f"{module}:{node.lineno}"
            assert node.type is not None, where
            assert not caught & {"Exception", "BaseException", "ValueError, KeyError"}, where


@pytest.mark.parametrize("module", MODULES)
def test_a_module_holds_one_idea(module: str) -> None:
    """A smell, not a rule: 300 lines are the aim, 400 the end."""
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 400


def test_no_module_bears_the_name_of_a_public_function() -> None:
    modules = {name for _, name, _ in pkgutil.iter_modules([str(PACKAGE)])}
    assert modules & set(ckptfix.__all__) == set()


def test_importing_ckptfix_loads_nothing_heavy() -> None:
    loaded = run_python("import ckptfix, sys; print(*sys.modules)").split()
    assert "ckptfix" in loaded
    assert {"torch", "numpy", "rich", "click", "safetensors", "diffusers"} & set(loaded) == set()


def test_the_command_line_loads_nothing_heavy() -> None:
    loaded = run_python("import ckptfix.cli, sys; print(*sys.modules)").split()
    assert {"torch", "numpy", "rich", "safetensors", "ckptfix.conversion", "ckptfix.formats"} & set(loaded) == set()


def test_public_names_survive_the_import_of_every_module() -> None:
    """A submodule imported later would take the place of a function of the same name in the package."""
    code = """
import importlib, pathlib, ckptfix
functions = ("inspect", "convert", "verify", "explain", "load", "attach")
first = {name: getattr(ckptfix, name) for name in functions}
for name in ARGUMENTS:
    importlib.import_module(name)
for name in functions:
    assert getattr(ckptfix, name) is first[name] and callable(first[name]), name
assert sorted(ckptfix.__all__) == sorted(set(ckptfix.__all__)) and set(ckptfix.__all__) <= set(dir(ckptfix))
for name in ckptfix.__all__:
    getattr(ckptfix, name)
print("done")
"""
    names = [name for name in MODULES if name != "ckptfix.__main__"]
    assert run_python(code.replace("ARGUMENTS", repr(names))).strip() == "done"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=re.escape("module 'ckptfix' has no attribute 'nothing'")):
        ckptfix.nothing  # noqa: B018


def test_the_version_is_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ckptfix.__version__"}
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?({re.escape(ckptfix.__version__)}|Unreleased)\b", changes, re.MULTILINE)


def test_every_test_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += [line for line in extra if not line.startswith("ckptfix[")]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert {re.split(r"[><=~\[; ]", line)[0].lower().replace("_", "-") for line in wanted} - pinned == set()


def test_every_data_file_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["ckptfix"]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    present = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert present == packaged


def test_every_folder_of_modules_is_a_package() -> None:
    assert {path.parent for path in PACKAGE.rglob("*.py") if not (path.parent / "__init__.py").exists()} == set()


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
