"""Downloads from a hub: which files, over bad connections, and the messages of failures."""

from __future__ import annotations

import json
import logging
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank_plugins.core.checkpoints import hub
from qwen_rerank_plugins.core.checkpoints.checkpoint import open_checkpoint
from qwen_rerank_plugins.core.checkpoints.hub import Hub
from qwen_rerank_plugins.errors import CheckpointNotFoundError, MissingDependencyError
from tests.core.hub_server import COMMIT, HubState, serve_hub
from tests.core.tiny_checkpoints import Shape

pytestmark = pytest.mark.loopback

MODEL = "org/reranker"
WEIGHTS = random.Random(1).randbytes(1 << 20)
FILES = {
    "config.json": json.dumps(Shape().config).encode(),
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"onnx",
    "original/consolidated.safetensors": b"other",
    "model.Q8_0.gguf": b"GGUF and more",
    "README.md": b"a card",
}
NEEDED = {"config.json", "model.safetensors", "tokenizer.json"}
DEAD = "http://127.0.0.1:9"
HUBS: list[Hub] = ["huggingface", "modelscope"]
both_hubs = pytest.mark.parametrize("name", HUBS)


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make both packages ask a server; the environment names it before they are imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)
    monkeypatch.setattr("modelscope_hub.config._default_config", None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubState]:
    """A hub, and empty caches of both packages that ask it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr(hub, "RESUMED_BYTES", 1 << 19)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with serve_hub(HubState(MODEL, dict(FILES))) as state:
        point_to(state.url, monkeypatch)
        yield state


def fetched(name: Hub, revision: str | None = None) -> Path:
    """Download the repository's checkpoint as `open_checkpoint` does."""
    checkpoint = open_checkpoint(MODEL, revision, hub=name)
    assert checkpoint.revision == (COMMIT if name == "huggingface" else None)
    assert (checkpoint.folder / "model.safetensors").read_bytes() == WEIGHTS
    return checkpoint.folder


@both_hubs
def test_only_the_files_that_are_read_are_downloaded_and_once(server: HubState, name: Hub) -> None:
    folder = fetched(name)
    assert {file.name for file in folder.rglob("*") if file.is_file()} == NEEDED
    assert dict(server.downloads()) == dict.fromkeys(NEEDED, 1)
    assert fetched(name) == folder
    assert dict(server.downloads()) == dict.fromkeys(NEEDED, 1)


@both_hubs
def test_a_gguf_file_is_downloaded_alone(server: HubState, name: Hub) -> None:
    with pytest.raises(Exception, match="is not a valid GGUF file"):
        open_checkpoint(f"{MODEL}:model.Q8_0.gguf", hub=name)
    assert set(server.downloads()) == {"model.Q8_0.gguf"}


@both_hubs
def test_a_revision_is_the_one_that_is_asked_for(server: HubState, name: Hub) -> None:
    fetched(name, "v1")
    asked = {file for _, file, _ in server.asked} | server.revisions
    assert {f"/api/models/{MODEL}/revision/v1", "v1"} & asked
    with pytest.raises(CheckpointNotFoundError, match=r"at revision 'v9' was not found.*Check the name"):
        fetched(name, "v9")


@both_hubs
def test_a_lost_connection_is_continued_where_it_broke(server: HubState, name: Hub) -> None:
    server.dropped["model.safetensors"] = [600_000]
    fetched(name)
    first, second = server.ranges("model.safetensors")
    assert first is None
    assert second is not None
    assert int(re.findall(r"\d+", second)[0]) >= 600_000 - (1 << 17)


def test_a_later_process_continues_a_download(server: HubState) -> None:
    """huggingface_hub itself deletes an unfinished file; over HTTP, ours stays."""
    server.dropped["model.safetensors"] = [600_000, *[0] * 20]
    with pytest.raises(CheckpointNotFoundError, match="Try again: finished parts are kept"):
        fetched("huggingface")
    server.dropped.clear()
    server.asked.clear()
    fetched("huggingface")
    (only,) = server.ranges("model.safetensors")
    assert only is not None
    assert int(re.findall(r"\d+", only)[0]) >= 600_000 - (1 << 17)


@both_hubs
def test_a_redirect_is_followed(server: HubState, name: Hub) -> None:
    server.redirects = True
    fetched(name)


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ({"statuses": {"/api": 404}}, r"404.*Check the name and the revision; .*set HF_TOKEN\."),
        (
            {"statuses": {"/api": 503}},
            r"503.*Try again.*set HF_ENDPOINT to the address of a mirror, or hub to",
        ),
        ({"statuses": {"model.safe": 503}}, r"503.*set HF_ENDPOINT to the address of a mirror, or hub to"),
        ({"token": "secret"}, r"401.*private or gated, accept its terms on its page and set HF_TOKEN\."),
        ({"statuses": {"/api": 403}}, r"403.*set HF_TOKEN\."),
    ],
)
def test_a_failed_download_says_what_to_do(server: HubState, failure: dict[str, Any], says: str) -> None:
    for key, value in failure.items():
        setattr(server, key, value)
    with pytest.raises(CheckpointNotFoundError, match=says) as caught:
        fetched("huggingface")
    message = str(caught.value)
    assert f"the download from the hub failed ({server.url}: " in message
    assert "give a local folder, or 'demo'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ({"/api/v1": 404}, r"404.*Check the name and the revision; .*set MODELSCOPE_API_TOKEN\."),
        ({"/api/v1": 401}, r"401.*set MODELSCOPE_API_TOKEN\."),
    ],
)
def test_a_failed_download_from_modelscope_says_what_to_do(
    server: HubState, failure: dict[str, int], says: str
) -> None:
    server.statuses = failure
    with pytest.raises(CheckpointNotFoundError, match=says) as caught:
        fetched("modelscope")
    assert f"the download from the hub failed ({server.url}: " in str(caught.value)
    assert "\n" not in str(caught.value)


@both_hubs
def test_a_hub_that_cannot_be_reached_is_replaced_by_its_cache_alone(
    server: HubState, name: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"huggingface": "set HF_ENDPOINT to", "modelscope": "set hub to 'huggingface'"}[name]
    point_to(DEAD, monkeypatch)
    with pytest.raises(CheckpointNotFoundError, match=rf"failed \({DEAD}: .*{other}"):
        fetched(name)
    point_to(server.url, monkeypatch)
    folder = fetched(name)
    point_to(DEAD, monkeypatch)
    assert fetched(name) == folder


@both_hubs
def test_nothing_is_asked_offline(server: HubState, name: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetched(name)
    server.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetched(name) == folder
    with pytest.raises(CheckpointNotFoundError, match="Nothing is downloaded while HF_HUB_OFFLINE is set"):
        open_checkpoint("org/other", hub=name)
    assert not server.asked


@both_hubs
def test_progress_is_logged_where_there_is_no_terminal(
    server: HubState,
    name: Hub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hub, "LOG_INTERVAL_S", 0.05)
    server.pause_s = 0.02
    with caplog.at_level(logging.INFO, hub.__name__):
        fetched(name)
    lines = [record.getMessage() for record in caplog.records if record.name == hub.__name__]
    assert lines[0] == f"downloading {MODEL} from {server.url}"
    done = [float(line.split()[2]) for line in lines[1:]]
    assert len(done) >= 3
    assert done == sorted(done)
    assert all(re.fullmatch(rf"downloading {MODEL}: \d+ of 1 MB, \d+\.\d MB/s", line) for line in lines[1:])
    assert "%|" not in capsys.readouterr().err


def test_what_an_earlier_process_received_does_not_count_in_the_rate(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hub, "LOG_INTERVAL_S", 0.0)
    progress = hub._Progress(MODEL, "huggingface")
    progress.announce(200_000_000)
    monkeypatch.setattr("time.monotonic", lambda: progress._logged_s + 10)
    bar = progress.bar_class()(unit="B", total=200_000_000, initial=100_000_000)
    with caplog.at_level(logging.INFO, hub.__name__):
        bar.update(20_000_000)
    assert caplog.messages[-1] == f"downloading {MODEL}: 120 of 200 MB, 2.0 MB/s"


def test_modelscope_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'qwen-rerank-plugins\[modelscope\]'"):
        open_checkpoint(MODEL, hub="modelscope")


def test_a_folder_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", None)
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    for file in NEEDED:
        Path("model", file).write_bytes(FILES[file])
    assert open_checkpoint("model", hub="modelscope").folder == Path("model")
