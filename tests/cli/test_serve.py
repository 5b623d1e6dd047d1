"""The settings that `serve` passes to the service, and its messages about the machine's firewall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qwen_rerank_plugins import RerankConfig
from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.cli.serve import EventPrinter
from qwen_rerank_plugins.service.lifecycle import Event
from qwen_rerank_plugins.service.settings import ServiceSettings

PUBLIC = "0.0.0.0"  # noqa: S104 (nothing is bound)


def test_every_option_reaches_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[RerankConfig, ServiceSettings]] = []

    def serve(config: RerankConfig, settings: ServiceSettings, **_: Any) -> int:
        served.append((config, settings))
        return 0

    monkeypatch.setattr("qwen_rerank_plugins.service.server.server.serve", serve)
    options = [
        *("--allowed-hosts", "rank.example, other.example", "--root-path", "/rank"),
        *("--tls-cert", "cert.pem", "--tls-key", "key.pem", "--return-documents", "--jobs-folder", "jobs"),
        *("--instruction", "Find it.", "--max-length", "512", "--model", "demo"),
    ]
    result = CliRunner().invoke(app, ["serve", *options])
    assert result.exit_code == 0, result.output
    ((config, settings),) = served
    assert (config.instruction, config.max_length) == ("Find it.", 512)
    assert settings.allowed_hosts == ("rank.example", "other.example")
    assert (settings.root_path, settings.tls_cert, settings.tls_key) == ("/rank", "cert.pem", "key.pem")
    assert settings.return_documents is True
    assert settings.jobs_folder == "jobs"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that record their arguments: an inactive ufw and an active firewalld."""
    log = tmp_path / "calls"
    log.touch()
    put(tmp_path, "ufw", f'echo "ufw $*" >> {log}; echo "Status: inactive"')
    put(tmp_path, "firewall-cmd", f'echo "firewall-cmd $*" >> {log}; echo running')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return log


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def printed(host: str, *, open_firewall: bool) -> str:
    lines: list[str] = []
    printer = EventPrinter(
        RerankConfig(backend="lexical"),
        ServiceSettings(host=host),
        lambda text, _: lines.append(text),
        open_firewall=open_firewall,
    )
    printer(Event("listening", address=(host, 8600)))
    return "\n".join(lines)


def changes(calls: Path) -> list[str]:
    return [line for line in calls.read_text(encoding="utf-8").splitlines() if "8600" in line]


def test_without_the_flag_the_command_is_only_printed(calls: Path) -> None:
    text = printed(PUBLIC, open_firewall=False)
    assert "firewalld is active" in text
    assert "firewall-cmd --add-port=8600/tcp; to undo it: firewall-cmd --remove-port=8600/tcp" in text
    assert changes(calls) == []


def test_with_the_flag_the_port_is_opened_and_the_way_back_is_printed(calls: Path) -> None:
    text = printed(PUBLIC, open_firewall=True)
    assert "opening port 8600 in firewalld" in text
    assert "to undo it: firewall-cmd --remove-port=8600/tcp" in text
    assert changes(calls) == ["firewall-cmd --add-port=8600/tcp"]


def test_an_active_ufw_comes_first(calls: Path) -> None:
    put(calls.parent, "ufw", f'echo "ufw $*" >> {calls}; echo "Status: active"')
    text = printed(PUBLIC, open_firewall=True)
    assert "ufw delete allow 8600/tcp" in text
    assert changes(calls) == ["ufw allow 8600/tcp"]


def test_a_firewall_that_refuses_is_reported(calls: Path) -> None:
    put(calls.parent, "ufw", 'echo "Status: active"; [ "$1" = status ] || { echo "need root"; exit 1; }')
    assert "ufw did not open the port: Status: active\nneed root" in printed(PUBLIC, open_firewall=True)


@pytest.mark.parametrize("open_firewall", [True, False])
def test_a_service_for_this_machine_alone_touches_no_firewall(calls: Path, open_firewall: bool) -> None:
    assert printed("127.0.0.1", open_firewall=open_firewall) == "listening on port 8600"
    assert calls.read_text(encoding="utf-8") == ""


def test_without_an_active_firewall_the_flag_says_so_and_nothing_else_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "nothing was changed" in printed(PUBLIC, open_firewall=True)
    assert "firewall" not in printed(PUBLIC, open_firewall=False)


def test_the_address_has_the_scheme_and_the_prefix_of_the_service() -> None:
    lines: list[str] = []
    settings = ServiceSettings(tls_cert="cert.pem", root_path="/rank")
    printer = EventPrinter(RerankConfig(backend="lexical"), settings, lambda text, _: lines.append(text))
    printer(Event("listening", address=("127.0.0.1", 8600)))
    printer(Event("loaded", seconds=0.0))
    assert any("https://127.0.0.1:8600/rank/" in line for line in lines)
