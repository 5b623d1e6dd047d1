"""Fixtures of every test: no hub, no network, no settings of this machine, and the option `--long`."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

# Before anything imports a hub client: tests never ask one.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

with suppress(ModuleNotFoundError):  # the oldest dependencies are tested without hypothesis
    from hypothesis import settings

    settings.register_profile("busy", deadline=None)  # an example may take seconds on a busy machine
    settings.load_profile("busy")

# A shell starts what it runs in the background with interrupts ignored, and children inherit that; tests send some.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = ("127.", "::1", "localhost")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--long`."""
    parser.addoption("--long", action="store_true", help="run the long sweeps too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip long sweeps unless `--long` is set, and tests of real weights unless a folder is named."""
    skip_long = pytest.mark.skip(reason="a long sweep: run with --long")
    skip_model = pytest.mark.skip(reason="QWEN_RERANK_TEST_MODEL names no folder with real weights")
    for item in items:
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(skip_long)
        if "needs_model" in item.keywords and not os.environ.get("QWEN_RERANK_TEST_MODEL"):
            item.add_marker(skip_model)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def long_run(request: pytest.FixtureRequest) -> bool:
    """Whether `--long` was given: sweeps that run small by default run whole."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The caches and the configuration of the user who runs the tests are neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        for name in [name for name in os.environ if name.startswith("QWEN_RERANK_")]:
            if not name.startswith("QWEN_RERANK_TEST_"):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test opens no socket; one marked `loopback` reaches this machine and nothing else."""
    allowed = request.node.get_closest_marker("loopback") is not None
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(self: socket.socket, address: Any) -> None:
        local = self.family == socket.AF_UNIX or (allowed and str(address[0]).startswith(LOOPBACK))
        if not local:
            pytest.fail(f"the test opened a connection to {address!r}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        check(self, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        check(self, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        if not (allowed and str(host).startswith(LOOPBACK)):
            pytest.fail(f"the test asked for the address of {host!r}")
        return getaddrinfo(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
