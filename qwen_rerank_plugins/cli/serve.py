"""The command `serve`, and what it prints about the service's events; the service itself prints nothing."""

# ruff: noqa: D301, FBT002 (a \b in a docstring keeps lines apart; typer declares flags as defaults)

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_rerank_plugins.cli.console import Config, Debug, make_console
from qwen_rerank_plugins.cli.firewall import active_firewall
from qwen_rerank_plugins.cli.options import (
    Adapters,
    Backend,
    Calibration,
    Device,
    Dtype,
    Family,
    Hub,
    Model,
    Quantization,
    Revision,
    load,
    model_overrides,
    report_errors,
)
from qwen_rerank_plugins.errors import MissingDependencyError

if TYPE_CHECKING:
    from qwen_rerank_plugins.config import RerankConfig
    from qwen_rerank_plugins.service.lifecycle import Event
    from qwen_rerank_plugins.service.settings import ServiceSettings

__all__ = ["EventPrinter", "browser_urls", "serve"]

PrintLine = Callable[[str, str], None]
"""Prints a line in a style of rich, the empty one for none."""

DEMO_READY = (
    "The DEMO model is ranking: a tiny one, bundled, with poor results. "
    "For real results, set --model to Qwen/Qwen3-Reranker-0.6B or to a folder with a checkpoint."
)
WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 (compared with, not bound to)

Host = Annotated[str | None, typer.Option(help="Address to listen on, 0.0.0.0 for all. [127.0.0.1]")]
Port = Annotated[int | None, typer.Option(help="Port to listen on, 0 for any free one. [8501]")]
ApiKeysFile = Annotated[
    str | None, typer.Option(help="File with the keys that clients may use, one per line.", metavar="FILE")
]
AllowedHosts = Annotated[
    str | None,
    typer.Option(help="Host names that clients may use, comma-separated; * for any.", metavar="NAMES"),
]
RootPath = Annotated[
    str | None, typer.Option(help="Prefix of every address that a proxy keeps.", metavar="PATH")
]
TlsCert = Annotated[
    str | None, typer.Option(help="PEM file with the certificate chain, for HTTPS.", metavar="FILE")
]
TlsKey = Annotated[str | None, typer.Option(help="PEM file with the private key.", metavar="FILE")]
ReturnDocuments = Annotated[
    bool | None,
    typer.Option(
        "--return-documents/--no-return-documents", help="Echo documents if a request does not say."
    ),
]
JobsFolder = Annotated[
    str | None,
    typer.Option(help="Accept uploaded files, and keep them in this folder.", metavar="FOLDER"),
]
OpenFirewall = Annotated[
    bool, typer.Option("--open-firewall", help="With a public host, open the port in ufw or firewalld.")
]
LogFormat = Annotated[str | None, typer.Option(help="json or text.")]
Instruction = Annotated[str | None, typer.Option(help="What relevance means, if a request does not say.")]
MaxLength = Annotated[int | None, typer.Option(help="Maximum tokens of a prompt with its document.")]

SERVICE_OPTIONS = (
    "host",
    "port",
    "api_keys_file",
    "allowed_hosts",
    "root_path",
    "tls_cert",
    "tls_key",
    "return_documents",
    "jobs_folder",
    "log_format",
)
"""Options that are settings of the service."""


def serve(  # noqa: PLR0913, PLR0917 (one parameter an option)
    host: Host = None,
    port: Port = None,
    api_keys_file: ApiKeysFile = None,
    allowed_hosts: AllowedHosts = None,
    root_path: RootPath = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    return_documents: ReturnDocuments = None,
    jobs_folder: JobsFolder = None,
    open_firewall: OpenFirewall = False,
    log_format: LogFormat = None,
    backend: Backend = None,
    model: Model = None,
    revision: Revision = None,
    hub: Hub = None,
    adapters: Adapters = None,
    family: Family = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
    calibration: Calibration = None,
    instruction: Instruction = None,
    max_length: MaxLength = None,
    config: Config = None,
    debug: Debug = False,
) -> None:
    """Serve rerank APIs and the workbench over HTTP until Ctrl-C.

    Clients of Cohere, Jina, vLLM, TEI, Voyage and DashScope need a changed URL only; a browser shows the workbench at the
    root. Further settings are in the section `service` of the configuration, or QWEN_RERANK_SERVICE_* variables.

    \b
    Examples:
      qwen-rerank serve
      qwen-rerank serve --model demo --port 8600
      qwen-rerank serve --host 0.0.0.0 --api-keys-file keys.txt
      qwen-rerank serve --jobs-folder jobs
      QWEN_RERANK_SERVICE_MAX_DOCUMENTS=200 qwen-rerank serve --config qwen-rerank.yaml
    """
    given = locals()
    overrides = {**model_overrides(given), "instruction": instruction, "max_length": max_length}
    own = {name: given[name] for name in SERVICE_OPTIONS}
    with report_errors(debug=debug):
        status = _serve(load(config, overrides).config, own, open_firewall=open_firewall)
    raise typer.Exit(status)


def _serve(config: RerankConfig, own: dict[str, Any], *, open_firewall: bool) -> int:
    try:
        from qwen_rerank_plugins.service.server.server import serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("qwen_rerank_plugins"):
            raise
        message = f"serving needs {error.name!r}; run pip install 'qwen-rerank-plugins[server]'"
        raise MissingDependencyError(message) from error
    from qwen_rerank_plugins.service.settings import ServiceSettings

    given = {name: value for name, value in own.items() if value is not None}
    settings = ServiceSettings.from_config(config, **given)
    console = make_console(stderr=True)
    printer = EventPrinter(
        config,
        settings,
        lambda text, style: console.print(text, style=style, soft_wrap=True),
        open_firewall=open_firewall,
    )
    return serve(config, settings, announce=printer)


class EventPrinter:
    """Prints the service's events as lines.

    Args:
        config: The reranker's settings.
        settings: The service's settings.
        print_line: Prints a line.
        open_firewall: Open the port in this machine's firewall if the host is public.
    """

    def __init__(
        self,
        config: RerankConfig,
        settings: ServiceSettings,
        print_line: PrintLine,
        *,
        open_firewall: bool = False,
    ) -> None:
        self._open_firewall = open_firewall
        self._config = config
        self._settings = settings
        self._print_line = print_line
        self._address = ("", 0)

    def __call__(self, event: Event) -> None:
        """Print an event."""
        if event.address is not None:
            self._address = event.address
        for text, style in self._lines(event):
            self._print_line(text, style)
        if event.kind == "listening" and self._settings.is_public:
            self._show_firewall(self._address[1])

    def _show_firewall(self, port: int) -> None:
        """Open the port in an active firewall if that was requested, or print the command."""
        firewall = active_firewall(port)
        if firewall is None:
            if self._open_firewall:
                self._print_line(
                    "no active firewall was found (ufw requires root); nothing was changed", "bold"
                )
            return
        opening, closing = " ".join(firewall.opening), " ".join(firewall.closing)
        if not self._open_firewall:
            text = f"{firewall.name} is active; to let other machines in: {opening}; to undo it: {closing}"
            self._print_line(text, "")
            return
        self._print_line(f"opening port {port} in {firewall.name}: {opening}; to undo it: {closing}", "bold")
        if error := firewall.open():
            self._print_line(f"{firewall.name} did not open the port: {error}", "bold red")

    def _lines(self, event: Event) -> list[tuple[str, str]]:
        name = type(event.error).__name__
        match event.kind:
            case "listening":
                return [(f"listening on port {self._address[1]}", ""), *self._warnings()]
            case "loading":
                return [(f"loading {self._source()}", "")]
            case "loaded":
                return self._ready(event)
            case "failing":
                return [(f"the engine failed ({name}); recovering, /ready answers 503", "bold red")]
            case "recovered":
                return [("the engine has recovered", "bold green")]
            case "failed":
                return [(f"cannot score: {name}: {event.error}", "bold red")]
            case "draining":
                return [("stopping after the accepted requests; Ctrl-C again stops at once", "")]
            case "stopped":
                return [("stopped", "")]

    def _source(self) -> str:
        return str(self._config.base_url) if self._config.backend == "remote" else self._config.model

    def _ready(self, event: Event) -> list[tuple[str, str]]:
        info = event.info or {}
        what = [str(info[key]) for key in ("model", "device", "dtype") if info.get(key)]
        lines = [(f"ready after {event.seconds or 0.0:.1f} s: {' · '.join(what)}", "bold green")]
        if self._config.is_demo:
            lines.append((DEMO_READY, "bold yellow"))
        lines += [(f"  {label:<9}{url}", "bold") for label, url in self._urls()]
        if not self._settings.is_public:
            lines.append(("  only this machine can reach it; --host 0.0.0.0 opens it to the network", ""))
        return [*lines, ("  Ctrl-C stops it", "")]

    def _urls(self) -> list[tuple[str, str]]:
        scheme = "https" if self._settings.tls_cert else "http"
        path = f"{self._settings.root_path}/"
        return [
            (label, f"{scheme}{url.removeprefix('http').removesuffix('/')}{path}")
            for label, url in browser_urls(*self._address)
        ]

    def _warnings(self) -> list[tuple[str, str]]:
        if self._settings.is_public and not (self._settings.api_keys_file or self._settings.api_keys_env):
            text = (
                f"WARNING: {self._settings.host} can be reached from other machines, and no API key is required. "
                "Set --api-keys-file to a file with keys."
            )
            return [(text, "bold red")]
        return []


def browser_urls(host: str, port: int) -> list[tuple[str, str]]:
    """Return the labels and URLs of the service: for this machine, and for the network if it listens there."""
    if host not in WILDCARDS:
        return [("address", _url(host, port))]
    local = _url("127.0.0.1" if host == "0.0.0.0" else "::1", port)  # noqa: S104
    own = _network_address()
    return [("local", local)] + ([("network", _url(own, port))] if own else [])


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _network_address() -> str | None:
    """Return this machine's address in the network, or None; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation (RFC 5737)
        except OSError:
            return None
        address: Any = probe.getsockname()[0]
    return str(address)
