"""What every command of `qwen-rerank` shares: its name, options of the model, where settings come from."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_rerank_plugins.cli import console

if TYPE_CHECKING:
    from qwen_rerank_plugins.config import LoadedConfig, RerankConfig

PROGRAM = "qwen-rerank"

DEMO_NOTICE = (
    "THIS IS THE DEMO MODEL: a tiny one, bundled to try the software without a download. "
    "It ranks far worse than Qwen3-Reranker; choose a real one with --model."
)

Backend = Annotated[str | None, typer.Option(help="local, remote, or lexical (word overlap, no model).")]
Model = Annotated[str | None, typer.Option(help="Hub id, folder, or demo (bundled, tiny).")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Family = Annotated[str | None, typer.Option(help="Prompt family: auto, a name, or a file of one.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
Quantization = Annotated[str | None, typer.Option(help="none or int8.")]


def report_errors(*, debug: bool) -> AbstractContextManager[None]:
    """Turn errors into one line on standard error and an exit code."""
    return console.report_errors(PROGRAM, debug=debug)


def load(path: str | None, options: dict[str, Any]) -> LoadedConfig:
    """Load the configuration; options that were not given say nothing."""
    from qwen_rerank_plugins.config import load_config_with_sources

    overrides = {name: value for name, value in options.items() if value is not None}
    return load_config_with_sources(path, overrides=overrides)


def announce_demo(config: RerankConfig) -> None:
    """Say on standard error that the demo model answers, where it does."""
    if config.is_demo:
        console.make_console(stderr=True).print(DEMO_NOTICE, style="bold yellow", highlight=False)
