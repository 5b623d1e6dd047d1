"""Tests have no access to the network, a hub, or the user's files."""

from __future__ import annotations

import os
import socket
import threading

import pytest

Refused = pytest.fail.Exception


def test_a_test_cannot_open_a_connection() -> None:
    with pytest.raises(Refused, match="opened a connection"), socket.socket() as client:
        client.connect(("127.0.0.1", 9))
    with pytest.raises(Refused, match="opened a connection"), socket.socket() as client:
        client.connect_ex(("192.0.2.1", 80))


def test_a_test_cannot_ask_a_name_server() -> None:
    with pytest.raises(Refused, match="asked for the address"):
        socket.create_connection(("example.invalid", 80), timeout=1)


@pytest.mark.loopback
def test_a_marked_test_reaches_this_machine_and_nothing_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        socket.create_connection(server.getsockname(), timeout=5).close()
        thread.join(5)
    with pytest.raises(Refused), socket.socket() as client:
        client.connect(("192.0.2.1", 80))


def test_no_hub_is_asked() -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE


def test_no_setting_of_this_machine_is_seen() -> None:
    names = [name for name in os.environ if name.startswith("QWEN_RERANK_")]
    assert [name for name in names if not name.startswith("QWEN_RERANK_TEST_")] == []
    assert "home" in os.environ["XDG_CACHE_HOME"]
