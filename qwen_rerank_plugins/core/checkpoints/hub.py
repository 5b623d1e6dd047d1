"""Download a repository's files from a hub: Hugging Face's, a mirror of it, or ModelScope.

This module knows neither what the files are nor what is in them. Downloads are done by the hubs' own packages. Where standard error
is not a terminal, progress is logged; on a terminal, the packages draw their bars.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import IO, Any, Literal, cast

from qwen_rerank_plugins.errors import CheckpointNotFoundError, MissingDependencyError

__all__ = ["Hub", "download", "progress_shown_by"]

logger = logging.getLogger(__name__)

Hub = Literal["huggingface", "modelscope"]

LOG_INTERVAL_S = 5.0
RESUMED_BYTES = 8 << 20
"""Files from this size on are continued by a later process; smaller ones start again."""

_viewers: list[Callable[[str], object]] = []

_MAX_SUMMARY = 120
_FINAL = (401, 403, 404)
"""Statuses that another try does not change."""


def download(
    model: str, revision: str | None, files: Sequence[str], hub: Hub = "huggingface"
) -> tuple[Path, str | None]:
    """Return the folder with a repository's files, and the commit if the hub names it. Files that are cached are not downloaded.

    Args:
        model: The repository, such as "Qwen/Qwen3-Reranker-0.6B".
        revision: Branch, tag or commit; None for the main branch.
        files: Names or patterns of the files that are needed.
        hub: The hub to ask; no other one is asked.

    Raises:
        CheckpointNotFoundError: The download failed, and the files are not cached.
        MissingDependencyError: The hub's package is not installed.
    """
    fetch = _from_modelscope if hub == "modelscope" else _from_huggingface
    try:
        return fetch(model, revision, files)
    except MissingDependencyError:
        raise
    except Exception as error:  # the hubs' packages raise errors of several libraries
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointNotFoundError(
            f"{model!r}{at} was not found: no such folder, and the download from the hub failed "
            f"({_endpoint(hub)}: {_summary(error)}). {_remedy(hub, error)}. Without a network, give a local folder, or 'demo' "
            f"for the small checkpoint that ships with the package"
        ) from error


@contextmanager
def progress_shown_by(viewer: Callable[[str], object]) -> Iterator[None]:
    """Call `viewer` with each line of progress too, while the block runs."""
    _viewers.append(viewer)
    try:
        yield
    finally:
        _viewers.remove(viewer)


def _report(line: str) -> None:
    logger.info("%s", line)
    for viewer in _viewers:
        viewer(line)


def _from_huggingface(model: str, revision: str | None, files: Sequence[str]) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError

    progress = _Progress(model, "huggingface")
    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(files)}
    try:
        plan = snapshot_download(model, dry_run=True, tqdm_class=progress.bar_class(), **wanted)
    except DryRunError as error:
        try:
            folder = Path(snapshot_download(model, local_files_only=True, **wanted))
        except LocalEntryNotFoundError:
            raise error.__cause__ or error from None
        return folder, folder.name
    missing = [file for file in plan if file.will_download]
    for file in missing:
        progress.announce(file.file_size or 0)
    bar = None if _draws_bars() else progress.bar_class()
    for file in missing:
        if (file.file_size or 0) >= RESUMED_BYTES:
            _resume_file(model, file.filename, file.commit_hash, bar)
            progress.finish_bars()
    folder = Path(snapshot_download(model, tqdm_class=bar, **wanted))
    return folder, folder.name


def _resume_file(model: str, name: str, commit: str, bar: type[Any] | None) -> None:
    """Download a file into the cache over HTTP, from where an earlier process stopped.

    `snapshot_download` continues after a lost connection, but in a new process it downloads the whole file again. Files in Xet storage
    are left to it: they come in many parallel pieces.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(model, name, revision=commit)
    found = get_hf_file_metadata(url)
    if found.xet_file_data is not None or not found.etag:
        return
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=model, repo_type="model"), "blobs")
    blob, part = blobs / found.etag, blobs / f"{found.etag}.part"
    blobs.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(f"{part}.lock"):
        if blob.is_file():
            return
        with part.open("ab") as target:
            size = target.tell()
            http_get(
                *(url, target),
                resume_size=size,
                headers=build_hf_headers(),
                expected_size=found.size,
                displayed_filename=name,
                tqdm_class=bar,
            )
        part.replace(blob)


def _from_modelscope(model: str, revision: str | None, files: Sequence[str]) -> tuple[Path, None]:
    from huggingface_hub import constants

    try:
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError as error:
        raise MissingDependencyError(
            f"hub 'modelscope' needs {error.name!r}: pip install 'qwen-rerank-plugins[modelscope]'"
        ) from error
    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(files)}
    failure: Exception | None = None
    if not constants.HF_HUB_OFFLINE:
        try:
            with _without_bars():
                callbacks = [_Progress(model, "modelscope").callback_class()]
                return Path(snapshot_download(model, progress_callbacks=callbacks, **wanted)), None
        except Exception as error:
            if _status(error) in _FINAL:
                raise
            failure = error
    try:
        folder = Path(snapshot_download(model, local_files_only=True, **wanted))
    except Exception as error:  # noqa: BLE001 - the caller handles all types
        raise failure or error from None
    if failure and not any(next(folder.glob(pattern), None) for pattern in files):
        raise failure
    # A branch's folder keeps its name when the branch moves, so no commit is known.
    return folder, None


def _draws_bars() -> bool:
    """Whether bars can be seen: standard error is a terminal, and no status line of a program replaces it."""
    return sys.stderr.isatty() and sys.stderr is sys.__stderr__


@contextmanager
def _without_bars() -> Iterator[None]:
    """Drop the progress bars of ModelScope's package where they cannot be seen: it has no switch for them."""
    if _draws_bars():
        yield
        return
    with redirect_stderr(cast(IO[str], _NoBars(sys.stderr))):
        yield


class _NoBars:
    """A text stream that drops what tqdm writes: texts that begin with a carriage return, and movements of the cursor."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if text.strip() and not text.startswith(("\r", "\x1b[A")):
            self._stream.write(text)
        return len(text)


class _Progress:
    """Logs the progress of one download every `LOG_INTERVAL_S`. Threads may share it."""

    def __init__(self, model: str, hub: Hub) -> None:
        self._model = model
        self._hub = hub
        self._lock = threading.Lock()
        self._bars: list[Any] = []
        self._total_bytes = self._finished_bytes = self._logged_bytes = 0
        self._logged_s = 0.0

    def announce(self, num_bytes: int) -> None:
        """Add a file to the total."""
        with self._lock:
            if not self._total_bytes:
                _report(f"downloading {self._model} from {_endpoint(self._hub)}")
                self._logged_s = time.monotonic()
            self._total_bytes += num_bytes

    def add(self, num_bytes: int) -> None:
        """Count bytes of a file without a bar, and log if it is time."""
        with self._lock:
            self._finished_bytes += num_bytes
            # The bars of one `snapshot_download` count the same bytes, received and written.
            done_bytes = self._finished_bytes + max((bar.n for bar in self._bars), default=0)
            elapsed_s = time.monotonic() - self._logged_s
            if elapsed_s < LOG_INTERVAL_S:
                return
            rate = max(0, done_bytes - self._logged_bytes) / elapsed_s
            _report(
                f"downloading {self._model}: {done_bytes / 1e6:.0f} of {self._total_bytes / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s"
            )
            self._logged_bytes, self._logged_s = done_bytes, self._logged_s + elapsed_s

    def finish_bars(self) -> None:
        """Count what the bars so far have counted as finished."""
        self._finished_bytes += max((bar.n for bar in self._bars), default=0)
        self._bars.clear()

    def bar_class(self) -> type[Any]:
        """Return a class in place of tqdm's, whose bars are logged."""
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        progress = self

        class Bar(tqdm):
            def __init__(self, *args: Any, unit: str = "it", initial: int = 0, **options: Any) -> None:
                super().__init__(*args, **options | {"disable": True, "initial": initial})  # type: ignore[no-untyped-call]
                self._counts_bytes = unit == "B"
                if self._counts_bytes:
                    progress._logged_bytes += initial
                    progress._bars.append(self)

            def update(self, n: float | None = 1) -> None:
                self.n += n or 0
                if self._counts_bytes:
                    progress.add(0)

        return Bar

    def callback_class(self) -> type[Any]:
        """Return a class of ModelScope's callbacks; one object is made per file."""
        progress = self

        class Callback:
            def __init__(self, filename: str, file_size: int) -> None:  # noqa: ARG002 (ModelScope's contract)
                progress.announce(file_size)

            def update(self, size: int) -> None:
                progress.add(size)

            def end(self) -> None:
                """Nothing is left to do."""

        return Callback


def _endpoint(hub: Hub) -> str:
    """Return the address of a hub, as configured by the variables of its package."""
    if hub == "modelscope":
        return os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn"
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the first of those that it collects, and their causes."""
    while error is not None:
        yield error
        collected: dict[str, BaseException] = getattr(error, "failed_files", None) or {}
        error = next(iter(collected.values()), error.__cause__)


def _status(error: Exception) -> int | None:
    """Return the status with which a hub refused, or None if it did not answer."""
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", getattr(cause, "status_code", None))
        if isinstance(status, int):
            return status
    return None


def _summary(error: Exception) -> str:
    """Return the type and the first line of the innermost error."""
    *_, first = _causes(error)
    line = (str(first).strip().splitlines() or ["no details"])[0]
    return f"{type(first).__name__}: {line[:_MAX_SUMMARY]}"


def _remedy(hub: Hub, error: Exception) -> str:
    """Return what to do about a failed download."""
    from huggingface_hub import constants

    status, modelscope = _status(error), hub == "modelscope"
    if constants.HF_HUB_OFFLINE:
        return "Nothing is downloaded while HF_HUB_OFFLINE is set, nor by `doctor`"
    if status in _FINAL:
        token = "MODELSCOPE_API_TOKEN" if modelscope else "HF_TOKEN"
        return f"Check the name and the revision; if the repository is private or gated, accept its terms on its page and set {token}"
    other = (
        "hub to 'huggingface'"
        if modelscope
        else "HF_ENDPOINT to the address of a mirror, or hub to 'modelscope'"
    )
    return f"Try again: finished parts are kept. If the hub cannot be reached from here, set {other}"
