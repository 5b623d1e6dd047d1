"""The command `convert`: any model as a safetensors folder. `core.checkpoints.convert` does the work."""

# ruff: noqa: D301, FBT002 (a \b in a docstring keeps line breaks; typer declares flags as defaults)

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwen_rerank_plugins.cli.console import Config, Debug, make_console
from qwen_rerank_plugins.cli.options import Adapters, Hub, Revision, load, report_errors

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["convert"]

EXIT_SIGNAL = 128

In = Annotated[
    str,
    typer.Argument(
        help="Hub id, folder, GGUF file, LoRA adapter, or demo.", metavar="IN", show_default=False
    ),
]
Out = Annotated[str, typer.Argument(help="Folder to write: a new one, or an empty one.", metavar="OUT")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16 (default: that of IN's configuration).")
]
Quantization = Annotated[
    str, typer.Option(help="none, or int8: linear layers in compressed-tensors' W8A8 layout.")
]


def convert(  # noqa: PLR0913, PLR0917 (one parameter per option)
    source: In,
    folder: Out,
    revision: Revision = None,
    hub: Hub = None,
    adapters: Adapters = None,
    dtype: Dtype = None,
    quantization: Quantization = "none",
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Write a model of any form as a safetensors folder that transformers loads.

    Adapters are merged, and GGUF, FP8, AWQ, GPTQ and compressed-tensors dequantised. OUT holds config.json, the weights, the
    tokenizer, and a README.md that says what was done. It appears when it is complete; an interrupted run leaves nothing.

    With --quantization int8, weights need a quarter of float32's memory. This program multiplies them as they are
    (--quantization int8); transformers loads them with the package compressed-tensors.

    \b
    Examples:
      qwen-rerank convert my-org/legal-lora merged
      qwen-rerank convert Qwen/Qwen3-Reranker-0.6B merged --adapters ./legal,./medical=0.5
      qwen-rerank convert model.Q8_0.gguf plain --dtype bfloat16
      qwen-rerank convert Qwen/Qwen3-Reranker-4B small --quantization int8
    """
    with report_errors(debug=debug):
        from qwen_rerank_plugins.core.checkpoints.checkpoint import open_checkpoint
        from qwen_rerank_plugins.core.checkpoints.convert import convert_checkpoint

        model = {"backend": "local", "model": source, "revision": revision, "hub": hub, "adapters": adapters}
        loaded = load(config, model).config
        checkpoint = open_checkpoint(loaded.model, loaded.revision, loaded.adapter_weights, loaded.hub)
        with _stop_on_sigterm(), _show_progress() as on_progress:
            report = convert_checkpoint(
                *(checkpoint, Path(folder).expanduser()),
                dtype=dtype,
                quantization=quantization,
                on_progress=on_progress,
            )
        files = "1 file" if report.num_files == 1 else f"{report.num_files} files"
        typer.echo(
            f"{checkpoint.weight_format} -> {report.number_format}: {report.num_bytes / 1e6:,.1f} MB in {files} of {folder!r}",
            err=True,
        )


@contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Raise `SystemExit` on SIGTERM, so that what is unfinished is removed."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(EXIT_SIGNAL + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _show_progress() -> Iterator[Callable[[int, int], None]]:
    """Show a bar of bytes on standard error if it is a terminal; yields the function that advances it."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = make_console(stderr=True)
    bar = Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True)
    with bar if console.is_terminal else nullcontext():
        task = bar.add_task("writing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
