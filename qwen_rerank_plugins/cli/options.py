"""Options that the commands of `qwen-rerank` share, and the configuration that they load."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_rerank_plugins.cli import console

if TYPE_CHECKING:
    from qwen_rerank_plugins.config import LoadedConfig, RerankConfig

PROGRAM = "qwen-rerank"

DEMO_NOTICE = (
    "THIS IS THE DEMO MODEL: a tiny one that is bundled to try the software without a download. "
    "It ranks far worse than Qwen3-Reranker; choose a real model with --model."
)

Backend = Annotated[
    str | None, typer.Option(help="local, remote, or lexical (word overlap without a model).")
]
Model = Annotated[str | None, typer.Option(help="Hub id, folder, GGUF file, or demo (tiny, bundled).")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Hub = Annotated[str | None, typer.Option(help="huggingface or modelscope.")]
Adapters = Annotated[
    str | None, typer.Option(help="LoRA adapters to merge: folders or hub ids, a,b=0.5 with a weight.")
]
Family = Annotated[str | None, typer.Option(help="Prompt family: auto, a name, or a YAML or TOML file.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N, mps, or several: cuda:0,cuda:1.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
Quantization = Annotated[str | None, typer.Option(help="none, int8 or auto (int8 where it is faster).")]

Calibration = Annotated[
    str | None, typer.Option(help="Calibration file that the command evaluate wrote for the model.")
]

_MODEL_OPTIONS = (
    *("backend", "model", "revision", "hub", "adapters"),
    *("family", "device", "dtype", "quantization", "calibration"),
)


def report_errors(*, debug: bool) -> AbstractContextManager[None]:
    """Report an error as one line on standard error and an exit code."""
    return console.report_errors(PROGRAM, debug=debug)


def load(path: str | None, options: dict[str, Any]) -> LoadedConfig:
    """Load the configuration, with the options that are not None as arguments."""
    from qwen_rerank_plugins.config import load_config_with_sources

    overrides = {name: value for name, value in options.items() if value is not None}
    return load_config_with_sources(path, overrides=overrides)


def model_overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the model among a command's parameters, by the names of their settings."""
    return {name: given[name] for name in _MODEL_OPTIONS if name in given}


def announce_demo(config: RerankConfig) -> None:
    """Print a notice on standard error if the demo model is configured."""
    if config.is_demo:
        console.make_console(stderr=True).print(DEMO_NOTICE, style="bold yellow", highlight=False)
