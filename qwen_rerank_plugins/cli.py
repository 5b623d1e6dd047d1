"""The command line: parses, calls, prints. What is heavy is imported inside the commands, so that help is immediate."""

# ruff: noqa: D301, FBT002 (a \b in a docstring keeps lines apart; typer declares flags as defaults)

from __future__ import annotations

import enum
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins._batch_command import batch
from qwen_rerank_plugins._command import (
    PROGRAM,
    Backend,
    Device,
    Dtype,
    Family,
    Model,
    Quantization,
    Revision,
    announce_demo,
    load,
    report_errors,
)
from qwen_rerank_plugins._evaluate_command import evaluate
from qwen_rerank_plugins._terminal import (
    OutputFormat,
    print_facts,
    print_result,
    rank_with_progress,
    show_status,
)
from qwen_rerank_plugins.commands import EXIT_FAILED, Config, Debug, make_app, make_console, version_option
from qwen_rerank_plugins.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from qwen_rerank_plugins._files import DocumentFile
    from qwen_rerank_plugins.config import RerankConfig


class InputKind(enum.StrEnum):
    """What `rank` reads."""

    TEXT = "text"
    JSONL = "jsonl"
    CSV = "csv"


app = make_app(PROGRAM)


def main() -> None:
    """Run the command line."""
    app()


@app.callback()
def _root(
    version: Annotated[bool, version_option(PROGRAM, __version__)] = False,
) -> None:
    """Rank documents with Qwen3 rerankers, on this machine.

    Every setting can also come from QWEN_RERANK_* variables or from a file; `qwen-rerank doctor` shows which did.
    """


@app.command()
def rank(  # noqa: PLR0913, PLR0917 (one parameter an option)
    query: Annotated[str, typer.Argument(help="What is searched for.", show_default=False)],
    file: Annotated[str, typer.Argument(help="Documents; - for standard input.")] = "-",
    input_format: Annotated[
        InputKind | None, typer.Option(help="Left out, the suffix decides; standard input is text.")
    ] = None,
    text_field: Annotated[str | None, typer.Option(help="JSON key or CSV column of the text.")] = None,
    top_n: Annotated[int | None, typer.Option("--top-n", "-n", help="Show so many documents.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out scores below, from 0 to 1.")] = None,
    instruction: Annotated[str | None, typer.Option(help="What relevance means.")] = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="What to print.")] = OutputFormat.TABLE,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a pair before it is cut.")] = None,
    long_documents: Annotated[str | None, typer.Option(help="truncate or chunk.")] = None,
    backend: Backend = None,
    model: Model = None,
    revision: Revision = None,
    family: Family = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Rank the documents of a file, or of standard input, by their relevance to QUERY.

    Text files hold one document a line; .jsonl holds strings or objects with a text, .csv a column of texts.

    \b
    Examples:
      qwen-rerank rank "how to wash a cat" documents.txt
      qwen-rerank rank "how to wash a cat" articles.jsonl --text-field body --top-n 5
      qwen-rerank rank "how to wash a cat" table.csv --format json | jq .results
      grep -h cat notes/*.txt | qwen-rerank rank "how to wash a cat" --model demo
      qwen-rerank rank "quarterly loss" reports.txt --instruction "Find the passage with the figure"
    """
    overrides = {
        "top_n": top_n,
        "min_score": min_score,
        "instruction": instruction,
        "max_length": max_length,
        "long_documents": long_documents,
        "backend": backend,
        "model": model,
        "revision": revision,
        "family": family,
        "device": device,
        "dtype": dtype,
        "quantization": quantization,
    }
    with report_errors(debug=debug):
        loaded = load(config, overrides)
        documents = _read(file, input_format, text_field)
        announce_demo(loaded.config)
        result = rank_with_progress(loaded.config, query, documents.texts)
        print_result(result, documents, output)


@app.command()
def serve(  # noqa: PLR0913, PLR0917 (one parameter an option)
    host: Annotated[str | None, typer.Option(help="Address; 127.0.0.1 left out, 0.0.0.0 for all.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 8501 left out, 0 takes a free one.")] = None,
    api_keys_file: Annotated[
        str | None, typer.Option(help="File with the keys that clients may use, one a line.", metavar="FILE")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="json or text.")] = None,
    backend: Backend = None,
    model: Model = None,
    revision: Revision = None,
    family: Family = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Serve rerank APIs and the workbench over HTTP until Ctrl-C.

    Cohere, Jina, vLLM, TEI, Voyage and DashScope clients reach it by changing a URL; the page is at the address
    itself. Everything else is set in the section `service` of the configuration, or by QWEN_RERANK_SERVICE_*.

    \b
    Examples:
      qwen-rerank serve
      qwen-rerank serve --model demo --port 8600
      qwen-rerank serve --host 0.0.0.0 --api-keys-file keys.txt
      QWEN_RERANK_SERVICE_MAX_DOCUMENTS=200 qwen-rerank serve --config qwen-rerank.yaml
    """
    overrides = {
        "backend": backend,
        "model": model,
        "revision": revision,
        "family": family,
        "device": device,
        "dtype": dtype,
        "quantization": quantization,
    }
    own = {"host": host, "port": port, "api_keys_file": api_keys_file, "log_format": log_format}
    with report_errors(debug=debug):
        loaded = load(config, overrides)
        status = _serve(loaded.config, {name: value for name, value in own.items() if value is not None})
    raise typer.Exit(status)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    no_model: Annotated[bool, typer.Option("--no-model", help="Do not load the model.")] = False,
    backend: Backend = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Show what this machine has, every setting with its source, and whether the model works.

    Nothing is downloaded: a model that is not here yet is a problem that is told. Exits with 1 if there is one.

    \b
    Examples:
      qwen-rerank doctor
      qwen-rerank doctor --model demo --json | jq .engine
      qwen-rerank doctor --no-model --config qwen-rerank.yaml
    """
    overrides = {"backend": backend, "model": model, "device": device, "dtype": dtype}
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface-hub is imported, which comes later
    with report_errors(debug=debug):
        from qwen_rerank_plugins.batch import BatchOptions
        from qwen_rerank_plugins.doctor import collect
        from qwen_rerank_plugins.service.settings import ServiceSettings

        loaded = load(config, overrides)
        announce_demo(loaded.config)
        with show_status("examining"):
            sections = (BatchOptions.from_config, ServiceSettings.from_config)
            facts = collect(loaded, load_model=not no_model, sections=sections)
        print_facts(facts, as_json=as_json)
        if facts["problems"]:
            raise typer.Exit(EXIT_FAILED)


@app.command()
def bench(  # noqa: PLR0913, PLR0917 (one parameter an option)
    documents: Annotated[int, typer.Option(help="Documents of the mixed workload.")] = 64,
    tokens: Annotated[int, typer.Option(help="Their mean length, in words (about as many tokens).")] = 120,
    repeat: Annotated[int, typer.Option(help="Runs of each latency measurement.")] = 5,
    backend: Backend = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Measure latency, throughput and memory of this machine.

    The table goes to standard error; the last line on standard output is the same as JSON.

    \b
    Examples:
      qwen-rerank bench
      qwen-rerank bench --model demo --documents 200 --repeat 20
      qwen-rerank bench --dtype float32 2>/dev/null | jq .throughput.tokens_per_s
    """
    overrides = {
        "backend": backend,
        "model": model,
        "device": device,
        "dtype": dtype,
        "quantization": quantization,
    }
    with report_errors(debug=debug):
        from qwen_rerank_plugins import bench as benchmark
        from qwen_rerank_plugins._output import facts_table, to_json

        loaded = load(config, overrides)
        announce_demo(loaded.config)
        with show_status("measuring") as on_step:
            figures = benchmark.run(
                loaded.config, num_documents=documents, num_words=tokens, repeat=repeat, on_step=on_step
            )
        make_console(stderr=True).print(facts_table(benchmark.for_people(figures)))
        typer.echo(to_json(figures))


app.command()(evaluate)


app.command()(batch)


def _read(path: str, kind: InputKind | None, text_field: str | None) -> DocumentFile:
    from qwen_rerank_plugins._files import read_documents

    if path == "-" and sys.stdin.isatty():
        raise InputError("no documents: nothing is piped in; name a file, or pipe one document a line")
    documents = read_documents(path, input_format=kind.value if kind else None, text_field=text_field)
    if documents.num_blank_lines:
        typer.echo(f"blank lines skipped: {documents.num_blank_lines}", err=True)
    return documents


def _serve(config: RerankConfig, own: dict[str, Any]) -> int:
    try:
        from qwen_rerank_plugins.service.server import serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("qwen_rerank_plugins"):
            raise
        message = f"serving needs {error.name!r}: pip install 'qwen-rerank-plugins[server]'"
        raise MissingDependencyError(message) from error
    from qwen_rerank_plugins._serving import Announcer
    from qwen_rerank_plugins.service.settings import ServiceSettings

    settings = ServiceSettings.from_config(config, **own)
    console = make_console(stderr=True)
    announcer = Announcer(
        config, settings, lambda text, style: console.print(text, style=style, soft_wrap=True)
    )
    return serve(config, settings, announce=announcer)


if __name__ == "__main__":
    main()
