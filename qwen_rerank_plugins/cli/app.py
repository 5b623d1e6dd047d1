"""The application `qwen-rerank`, assembled from its commands; each command is a module of its own."""

from __future__ import annotations

from typing import Annotated

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.cli.batch import batch
from qwen_rerank_plugins.cli.bench import bench
from qwen_rerank_plugins.cli.console import make_app, version_option
from qwen_rerank_plugins.cli.convert import convert
from qwen_rerank_plugins.cli.doctor import doctor
from qwen_rerank_plugins.cli.evaluate import evaluate
from qwen_rerank_plugins.cli.options import PROGRAM
from qwen_rerank_plugins.cli.rank import rank
from qwen_rerank_plugins.cli.serve import serve

__all__ = ["app", "main"]

app = make_app(PROGRAM)
for command in (rank, serve, doctor, bench, evaluate, batch, convert):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    app()


@app.callback()
def _root(
    version: Annotated[bool, version_option(PROGRAM, __version__)] = False,  # noqa: FBT002 (typer declares flags as defaults)
) -> None:
    """Rank documents with Qwen3 rerankers, on this machine.

    Settings can also come from QWEN_RERANK_* variables and from a file; `qwen-rerank doctor` shows the source of each.
    """
