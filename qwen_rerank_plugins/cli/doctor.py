"""The command `doctor`: this machine, every setting with its source, and whether the model loads.

Works without torch, and then says how to install it. `collect_facts` returns plain JSON types; the command prints them.
"""

# ruff: noqa: D301, FBT002 (a \b in a docstring keeps lines apart; typer declares flags as defaults)

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_rerank_plugins import __version__
from qwen_rerank_plugins.cli.console import EXIT_FAILED, Config, Debug, make_console, show_status
from qwen_rerank_plugins.cli.machine import machine_facts
from qwen_rerank_plugins.cli.options import (
    Adapters,
    Backend,
    Calibration,
    Device,
    Dtype,
    Hub,
    Model,
    announce_demo,
    load,
    model_overrides,
    report_errors,
)
from qwen_rerank_plugins.errors import ConfigurationError

if TYPE_CHECKING:
    from qwen_rerank_plugins.config import LoadedConfig, RerankConfig
    from qwen_rerank_plugins.reranker import Reranker

__all__ = ["collect_facts", "doctor"]

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "gguf", "pydantic")


def doctor(  # noqa: PLR0913, PLR0917 (one parameter an option)
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    no_model: Annotated[bool, typer.Option("--no-model", help="Do not load the model.")] = False,
    backend: Backend = None,
    model: Model = None,
    hub: Hub = None,
    adapters: Adapters = None,
    device: Device = None,
    dtype: Dtype = None,
    calibration: Calibration = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Show this machine, every setting with its source, and whether the model works.

    Nothing is downloaded: a model that is not available locally is reported as a problem. Exits with 1 if there is a
    problem.

    \b
    Examples:
      qwen-rerank doctor
      qwen-rerank doctor --model demo --json | jq .engine
      qwen-rerank doctor --no-model --config qwen-rerank.yaml
    """
    overrides = model_overrides(locals())
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface-hub reads it on import, which comes later
    with report_errors(debug=debug):
        from qwen_rerank_plugins.batch import BatchOptions
        from qwen_rerank_plugins.service.settings import ServiceSettings

        loaded = load(config, overrides)
        announce_demo(loaded.config)
        with show_status("examining"):
            sections = (BatchOptions.from_config, ServiceSettings.from_config)
            facts = collect_facts(loaded, load_model=not no_model, sections=sections)
        _print_facts(facts, as_json=as_json)
        if facts["problems"]:
            raise typer.Exit(EXIT_FAILED)


def _print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print the facts as tables or JSON, problems last."""
    from qwen_rerank_plugins.cli.tables import facts_table, one_line, settings_table, to_json

    if as_json:
        typer.echo(to_json(facts))
        return
    console = make_console()
    for section, content in facts.items():
        if section == "problems":
            continue
        console.print(section, style="bold underline", highlight=False)
        console.print(settings_table(content) if section == "settings" else facts_table(content))
        console.print()
    for problem in facts["problems"]:
        console.print(f"PROBLEM: {one_line(problem)}", style="bold red", markup=False, highlight=False)
    if not facts["problems"]:
        console.print("no problems found", style="bold green", highlight=False)


def collect_facts(
    loaded: LoadedConfig,
    *,
    load_model: bool = True,
    sections: Iterable[Callable[[RerankConfig], object]] = (),
    make_reranker: Callable[..., Reranker] | None = None,
) -> dict[str, Any]:
    """Examine this machine, and the engine if the model can be loaded.

    Args:
        loaded: The configuration and its sources.
        load_model: Whether to load the model, which also runs its self-check.
        sections: Functions that each validate a section of the configuration.
        make_reranker: Builds the reranker to examine; None for `Reranker`.

    Returns:
        Sections of plain JSON types: packages, machine, torch, settings, engine, problems. `problems` is a list of
        messages, and empty if the reranker works.
    """
    problems = [*_section_problems(loaded, sections)]
    return {
        "packages": _packages(),
        "machine": machine_facts(),
        "torch": _torch_facts(problems),
        "settings": _settings(loaded),
        "engine": _engine_facts(loaded, problems, make_reranker)
        if load_model
        else {"status": "not loaded (--no-model)"},
        "problems": list(dict.fromkeys(problems)),
    }


def _section_problems(
    loaded: LoadedConfig, sections: Iterable[Callable[[RerankConfig], object]]
) -> Iterator[str]:
    for read in sections:
        try:
            read(loaded.config)
        except ConfigurationError as error:
            yield str(error)


def _packages() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"qwen-rerank-plugins": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _settings(loaded: LoadedConfig) -> dict[str, dict[str, Any]]:
    shown = loaded.config.public_settings()
    return {name: {"value": value, "source": loaded.sources[name]} for name, value in shown.items()}


def _torch_facts(problems: list[str]) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {"installed": False, "install": "pip install 'qwen-rerank-plugins[local]'"}
    except OSError as error:  # a shared library of the wheel is damaged
        problems.append(f"torch cannot be loaded: {error}")
        return {"installed": True, "error": str(error)}
    return {
        "installed": True,
        "version": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call,unused-ignore]
        "cuda_version": torch.version.cuda,
        "cuda_devices": [_cuda_device(index) for index in range(torch.cuda.device_count())],
    }


def _cuda_device(index: int) -> dict[str, Any]:  # pragma: needs cuda
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_mb": properties.total_memory // 10**6,
    }


def _engine_facts(
    loaded: LoadedConfig, problems: list[str], make_reranker: Callable[..., Reranker] | None
) -> dict[str, Any]:
    from qwen_rerank_plugins.reranker import Reranker

    try:
        with (make_reranker or Reranker)(loaded.config) as reranker:
            facts = reranker.info()
    except Exception as error:  # noqa: BLE001 (any error is a problem to report)
        problems.append(f"{type(error).__name__}: {error}")
        return {"status": "not loaded", "error": problems[-1]}
    check = facts.get("self_check")
    status = check.get("status") if isinstance(check, dict) else check
    if status == "failed":
        problems.append(
            "the self-check failed: the optimized forward pass differs from the reference one, which is used instead"
        )
    return facts
