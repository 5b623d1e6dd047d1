"""Every exception is in the tree, described, exported, documented, and raised somewhere."""

from __future__ import annotations

import ast
import builtins
import inspect
import pickle
import re

import pytest

from qwen_rerank_plugins import errors
from tests.laws.sources import ROOT, package_modules

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.RerankError)
}
LEAVES = sorted(name for name, value in CLASSES.items() if not value.__subclasses__())

# Exceptions that nothing raises yet. Each entry says why and since when; it must go when its room arrives.
NOT_RAISED_YET: dict[str, str] = {}


def drawn_tree() -> dict[str, set[str]]:
    """Each class in the docstring's drawing with its parents: the one above it, and those in parentheses."""
    parents: dict[str, set[str]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^(?P<lead>[\s│├└─]*)(?P<name>\w+Error)\b(?: \((?P<others>[\w, ]+)\))?", line)
        if not match:
            continue
        depth = len(match["lead"])
        above = [entry for entry in above if entry[0] < depth]
        others = {name.strip() for name in (match["others"] or "").split(",") if name.strip()}
        parents[match["name"]] = others | ({above[-1][1]} if above else {"Exception"})
        above.append((depth, match["name"]))
    return parents


def raised_names() -> set[str]:
    """Names that the package raises or builds outside errors.py."""
    found: set[str] = set()
    for module in package_modules():
        if module.path.endswith("/errors.py"):
            continue
        for node in ast.walk(module.tree):
            target = (
                node.func if isinstance(node, ast.Call) else node.exc if isinstance(node, ast.Raise) else None
            )
            if isinstance(target, ast.Name | ast.Attribute):
                found.add(target.id if isinstance(target, ast.Name) else target.attr)
    return found


def test_the_drawing_is_the_class_tree() -> None:
    assert drawn_tree() == {
        name: {parent.__name__ for parent in value.__bases__} for name, value in CLASSES.items()
    }


def test_every_exception_is_exported() -> None:
    assert sorted(errors.__all__) == sorted(CLASSES)
    assert list(errors.__all__) == sorted(errors.__all__)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_exception_says_what_it_means(name: str) -> None:
    """The heading in the documentation gives the anchor that the command line names."""
    assert CLASSES[name].__doc__
    headings = re.findall(
        r"^### `(\w+)`$", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings.count(name) == 1
    assert sorted(headings) == sorted(CLASSES)


@pytest.mark.parametrize("name", LEAVES)
def test_every_exception_is_raised_somewhere(name: str) -> None:
    if name in NOT_RAISED_YET:
        assert name not in raised_names(), f"{name} is raised now: take it out of NOT_RAISED_YET"
    else:
        assert name in raised_names()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_exception_survives_its_way_between_processes(name: str) -> None:
    more = {"status": 429, "retry_after_s": 2.5} if name == "RemoteStatusError" else {}
    more |= {"retry_after_s": 2.5} if name == "OverloadedError" else {}
    error = CLASSES[name]("what happened", **more)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == ("what happened", more)


def test_every_exception_keeps_the_built_in_that_callers_catch() -> None:
    """Callers that catch Python's built-in exceptions catch the right ones."""
    drawn = drawn_tree()
    for name, parents in drawn.items():
        for parent in parents & set(dir(builtins)):
            assert issubclass(CLASSES[name], getattr(builtins, parent))
