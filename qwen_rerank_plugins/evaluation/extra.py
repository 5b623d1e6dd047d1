"""Whether the packages of the extra `eval` are installed. Imports none of them."""

from __future__ import annotations

import importlib.util

from qwen_rerank_plugins.errors import MissingDependencyError

MODULES = ("numpy", "bm25s", "ir_measures", "plotly")


def require_extra() -> None:
    """Refuse to go on when a package of the extra is missing.

    Raises:
        MissingDependencyError: It is; the message holds the line that installs it.
    """
    for name in MODULES:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"evaluating needs {name!r}: pip install 'qwen-rerank-plugins[eval]'"
            )
