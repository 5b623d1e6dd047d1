"""What every command shares: options of the model, where settings come from, and errors as exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from qwen_rerank_plugins._terminal import make_console
from qwen_rerank_plugins.errors import ConfigurationError, InputError, MissingDependencyError

if TYPE_CHECKING:
    from qwen_rerank_plugins.config import LoadedConfig, RerankConfig

EXIT_FAILED = 1
EXIT_USAGE = 2

DEMO_NOTICE = (
    "THIS IS THE DEMO MODEL: a tiny one, bundled to try the software without a download. "
    "It ranks far worse than Qwen3-Reranker; choose a real one with --model."
)


Config = Annotated[str | None, typer.Option(help="YAML or TOML file with settings.", metavar="FILE")]
Backend = Annotated[str | None, typer.Option(help="local, remote, or lexical (word overlap, no model).")]
Model = Annotated[str | None, typer.Option(help="Hub id, folder, or demo (bundled, tiny).")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Family = Annotated[str | None, typer.Option(help="Prompt family: auto, a name, or a file of one.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
Quantization = Annotated[str | None, typer.Option(help="none or int8.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def told(*, debug: bool) -> Iterator[None]:
    """Turn errors into one line on standard error and an exit code; a reader that went away is no error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more at exit; it shall find something to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001 (whatever it is, a person reads it)
        _fail(error, debug=debug)


def _fail(error: Exception, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    expected = type(error).__module__.startswith("qwen_rerank_plugins.")
    text = " ".join(str(error).split())
    hint = "" if expected or debug else " (unexpected; --debug shows the traceback)"
    typer.echo(
        f"qwen-rerank: error: {text if expected else f'{type(error).__name__}: {text}'}{hint}", err=True
    )
    usage = isinstance(error, InputError | ConfigurationError) and not isinstance(
        error, MissingDependencyError
    )
    raise typer.Exit(EXIT_USAGE if usage else EXIT_FAILED) from None


def load(path: str | None, options: dict[str, Any]) -> LoadedConfig:
    """Load the configuration; options that were not given say nothing."""
    from qwen_rerank_plugins.config import load_config_with_sources

    overrides = {name: value for name, value in options.items() if value is not None}
    return load_config_with_sources(path, overrides=overrides)


def announce_demo(config: RerankConfig) -> None:
    """Say on standard error that the demo model answers, where it does."""
    if config.is_demo:
        make_console(stderr=True).print(DEMO_NOTICE, style="bold yellow", highlight=False)
