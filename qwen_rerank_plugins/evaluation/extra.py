"""Check that the packages of the extra `eval` are installed, without importing them."""

from __future__ import annotations

import importlib.util

from qwen_rerank_plugins.errors import MissingDependencyError

MODULES = ("numpy", "bm25s", "ir_measures", "plotly")


def require_extra() -> None:
    """Check that every package of the extra is installed.

    Raises:
        MissingDependencyError: A package is missing; the message contains the command that installs it.
    """
    for name in MODULES:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"evaluation needs {name!r}: pip install 'qwen-rerank-plugins[eval]'"
            )
