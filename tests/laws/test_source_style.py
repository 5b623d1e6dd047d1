"""Rules for every module: short functions, short files, types, docstrings, no printing."""

from __future__ import annotations

import ast

import pytest

from tests.laws.sources import Function, Module, functions, package_modules, public_definitions

MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400
# Only these talk to a terminal.
MAY_PRINT = ("qwen_rerank_plugins/cli/app.py", "scripts/train_demo/")

each_module = pytest.mark.parametrize("module", package_modules(), ids=lambda module: module.path)


def missing_annotations(function: Function) -> list[str]:
    every = function.args
    named = [*every.posonlyargs, *every.args, *every.kwonlyargs, *filter(None, [every.vararg, every.kwarg])]
    bare = [one.arg for one in named if one.annotation is None and one.arg not in {"self", "cls"}]
    return bare + (["return"] if function.returns is None else [])


@each_module
def test_no_module_is_longer_than_a_reader_holds_in_mind(module: Module) -> None:
    assert len(module.text.splitlines()) <= MAX_MODULE_LINES


@each_module
def test_no_function_is_longer_than_a_screen(module: Module) -> None:
    lengths = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions(module.tree)}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def is_triton_kernel(function: Function) -> bool:
    """Its arguments are Triton's pointers and numbers."""
    return any(ast.unparse(decorator) == "triton.jit" for decorator in function.decorator_list)


@each_module
def test_every_function_is_annotated(module: Module) -> None:
    bare = {f.name: missing_annotations(f) for f in functions(module.tree) if not is_triton_kernel(f)}
    assert {name: names for name, names in bare.items() if names} == {}


@each_module
def test_everything_public_is_documented(module: Module) -> None:
    assert ast.get_docstring(module.tree)
    undocumented = [node.name for node in public_definitions(module.tree) if not ast.get_docstring(node)]
    assert undocumented == []


@each_module
def test_annotations_are_not_evaluated_on_import(module: Module) -> None:
    assert "from __future__ import annotations" in module.text or not list(functions(module.tree))


@each_module
def test_nothing_prints_but_the_command_line(module: Module) -> None:
    if module.path.startswith(MAY_PRINT):
        return
    calls = [node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    assert [call.id for call in calls if isinstance(call, ast.Name) and call.id == "print"] == []


@each_module
def test_the_library_configures_no_logging(module: Module) -> None:
    calls = [node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    names = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    assert not names & {"basicConfig", "dictConfig", "fileConfig", "setLevel"} or module.path.startswith(
        MAY_PRINT
    )


def test_the_checks_see_a_fault() -> None:
    tree = ast.parse("def f(a, *b, c: int):\n    print(a)\nclass K:\n    def m(self) -> None: ...\n")
    assert missing_annotations(next(functions(tree))) == ["a", "b", "return"]
    assert [node.name for node in public_definitions(tree)] == ["f", "K", "m"]
