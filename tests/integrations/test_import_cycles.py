"""No module of a wrapper imports one that imports it, at the top, inside a function, or for type checkers only."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "adapters": ("", "qwen_rerank_plugins/adapters"),
    "haystack": ("integrations/haystack", "haystack_integrations"),
    "langchain": ("integrations/langchain", "langchain_qwen_rerank"),
    "llama_index": ("integrations/llama_index", "llama_index"),
}
"""Name → folder from which its modules are imported, and the package below it."""


def imported_names(tree: ast.Module) -> set[str]:
    """Every name that an import statement mentions, wherever it stands."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def import_graph(base: Path, package: str) -> dict[str, set[str]]:
    """Module → the modules of the same package that it imports."""
    sources = {
        ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (base / package).rglob("*.py")
    }
    return {
        name: (imported_names(ast.parse(path.read_text(encoding="utf-8"))) & sources.keys()) - {name}
        for name, path in sources.items()
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_modules_do_not_import_each_other_in_a_circle(name: str) -> None:
    folder, package = PACKAGES[name]
    graph = import_graph(ROOT / folder, package)
    assert any(graph.values())
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "statement",
    [
        "import pkg.a",
        "from pkg import a",
        "if TYPE_CHECKING:\n    from pkg.a import A",
        "def f():\n    from pkg.a import A",
    ],
)
def test_the_check_sees_a_circle(statement: str, tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_text("from pkg.b import B\n")
    (tmp_path / "pkg" / "b.py").write_text(statement + "\n")
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(tmp_path, "pkg")).prepare()
