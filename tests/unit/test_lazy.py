"""Packages whose names are imported when they are asked for."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import ebpf

_ROOT = Path(ebpf.__file__).parent
_PACKAGES = [path for path in sorted(_ROOT.rglob("__init__.py")) if "names(" in path.read_text()]


def _places(tree: ast.Module) -> dict[str, str]:
    """What `names` is given: a module for each name."""
    call = next(node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__getattr__")
    assert isinstance(call, ast.Call)
    places: dict[str, str] = ast.literal_eval(call.args[1])
    return places


@pytest.mark.parametrize("path", _PACKAGES, ids=lambda path: path.parent.name)
def test_what_a_type_checker_is_told_is_what_is_imported(path: Path) -> None:
    package = ".".join(["ebpf", *path.parent.relative_to(_ROOT).parts])
    tree = ast.parse(path.read_text())
    told = {
        each.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    }
    places = _places(tree)
    assert told == {name: f"{package}.{module}" for name, module in places.items()}
    module = import_module(package)
    assert set(places) <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = module.nonesuch


@pytest.mark.parametrize("path", _PACKAGES, ids=lambda path: path.parent.name)
def test_no_module_has_a_name_that_its_package_gives_late(path: Path) -> None:
    # Once such a module is imported it would stand in the name's place.
    modules = {each.stem for each in path.parent.glob("*.py")} | {each.parent.name for each in path.parent.glob("*/__init__.py")}
    assert not modules & set(_places(ast.parse(path.read_text())))
