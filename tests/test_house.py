"""What the house must keep to: public names alone are used from outside, and no room is too large."""

import ast
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
MODULES = sorted((ROOT / "src" / "cifar_compare").rglob("*.py"))


def lines(path):
    return len(path.read_text().splitlines())


def code(path):
    if path.suffix == ".py":
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", [*SCRIPTS, *sorted((ROOT / "notebooks").glob("*.ipynb"))], ids=lambda path: path.name)
def test_scripts_and_notebooks_use_public_names_alone(path):
    tree = ast.parse(code(path))
    ours = {
        alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            assert not private, f"{path.name} imports {private}"
            if (node.module or "").startswith("cifar_compare"):
                ours |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            base = node.value
            while isinstance(base, ast.Attribute):
                base = base.value
            assert not (isinstance(base, ast.Name) and base.id in ours), f"{path.name} uses {ast.unparse(node)}"
    assert "mock" not in code(path)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_is_long(path):
    assert lines(path) <= 350
