"""The score cache: scores by key, in memory and, if a path is given, on disk.

It knows no texts, no models and no families: keys are digests, values are numbers and flags. The caller
decides what goes into a key; `KeyHasher` returns different keys for different parts. A cache never fails a
request: problems of the file mean fewer hits, and are logged once.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qwen_rerank_plugins.core.score_cache.disk import DiskCache
from qwen_rerank_plugins.errors import ConfigurationError, InputTypeError
from qwen_rerank_plugins.recipe import TEXT_WARNINGS
from qwen_rerank_plugins.types import PairScore

__all__ = ["CacheStats", "KeyHasher", "Part", "ScoreCache"]

Part = str | bytes | int | float | bool | None
"""Types that a key is computed from."""

_DIGEST_SIZE = 32
_SPAN, _TRUNCATED, _QUERY_TRUNCATED = 1, 2, 4
_WARNINGS = {warning: 8 << number for number, warning in enumerate(TEXT_WARNINGS)}
_FORMAT = 2
_VALUE = struct.Struct("<BBdQQQ")  # format, flags, log-odds, tokens, span's start and end


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counters of a cache since it was created.

    Attributes:
        entries: Scores in memory.
        max_entries: Capacity of the memory cache.
        hits: Keys that were found.
        disk_hits: Those of them that were found on disk.
        misses: Keys that were not found.
        disk_entries: Scores on disk, those of other processes included; 0 without a usable file.
        disk_bytes: Size of the file and its write-ahead log.
        disk_usable: Whether a path was given and the file has not failed.
    """

    entries: int
    max_entries: int
    hits: int
    disk_hits: int
    misses: int
    disk_entries: int
    disk_bytes: int
    disk_usable: bool

    @property
    def hit_rate(self) -> float:
        """Fraction of keys that were found, in [0, 1]; 0 before the first lookup."""
        return self.hits / max(1, self.hits + self.misses)


class ScoreCache:
    """Least-recently-used cache of scores. Safe across threads, processes and forks.

    Args:
        max_entries: Capacity in memory; 0 disables it.
        path: A file for scores that outlive the process and are shared by several; None for memory alone.
        max_disk_entries: Capacity of the file.

    Attributes:
        has_disk: Whether there is a file.
        is_enabled: Whether scores are stored at all.

    Raises:
        ConfigurationError: A capacity is negative, or `max_disk_entries` is 0.
    """

    def __init__(
        self, max_entries: int, *, path: str | Path | None = None, max_disk_entries: int = 1_000_000
    ) -> None:
        if max_entries < 0:
            raise ConfigurationError(f"max_entries is {max_entries!r}; it must not be negative")
        if path is not None and max_disk_entries < 1:
            raise ConfigurationError(f"max_disk_entries is {max_disk_entries!r}; it must be at least 1")
        self._max_entries = max_entries
        self._scores: OrderedDict[bytes, PairScore] = OrderedDict()
        self._hits = self._disk_hits = self._misses = 0
        self._disk = None if path is None else DiskCache(Path(path), max_entries=max_disk_entries)
        self.has_disk = path is not None
        self.is_enabled = max_entries > 0 or self.has_disk
        self._closed = False
        self._lock = threading.RLock()
        _caches.add(self)

    def get_many(self, keys: Sequence[bytes]) -> list[PairScore | None]:
        """Return the cached score of each key, in order; None where there is none."""
        with self._lock:
            found = {key: self._touch(key) for key in keys}
        missing = [key for key, score in found.items() if score is None]
        from_disk = self._read_disk(missing)
        found.update(from_disk)
        scores = [found[key] for key in keys]
        with self._lock:
            self._store(from_disk.items())
            num_hits = sum(score is not None for score in scores)
            self._hits += num_hits
            self._misses += len(scores) - num_hits
            self._disk_hits += sum(key in from_disk for key in keys)
        return scores

    def put_many(self, items: Iterable[tuple[bytes, PairScore]]) -> None:
        """Store scores with finite log-odds. Lookups return them with `cached` set."""
        scores = {key: replace(score, cached=True) for key, score in items}
        with self._lock:
            self._store(scores.items())
        if self._disk is not None and scores:
            self._disk.put_many([(key, _to_bytes(score)) for key, score in scores.items()])

    def clear(self) -> None:
        """Remove all scores, in memory and on disk."""
        with self._lock:
            self._scores.clear()
        if self._disk is not None:
            self._disk.clear()

    def close(self) -> None:
        """Release the file and the memory; later lookups miss, and nothing is stored."""
        with self._lock:
            self._closed = True
            self._scores.clear()
        if self._disk is not None:
            self._disk.close()

    def stats(self) -> CacheStats:
        """Return the counters for logs and metrics."""
        disk_entries, disk_bytes = (0, 0) if self._disk is None else self._disk.size()
        with self._lock:
            return CacheStats(
                entries=len(self._scores),
                max_entries=self._max_entries,
                hits=self._hits,
                disk_hits=self._disk_hits,
                misses=self._misses,
                disk_entries=disk_entries,
                disk_bytes=disk_bytes,
                disk_usable=self._disk is not None and self._disk.is_usable,
            )

    def _touch(self, key: bytes) -> PairScore | None:
        score = self._scores.get(key)
        if score is not None:
            self._scores.move_to_end(key)
        return score

    def _store(self, items: Iterable[tuple[bytes, PairScore]]) -> None:
        if self._closed:
            return
        for key, score in items:
            self._scores[key] = score
            self._scores.move_to_end(key)
        while len(self._scores) > self._max_entries:
            self._scores.popitem(last=False)

    def _read_disk(self, keys: Sequence[bytes]) -> dict[bytes, PairScore]:
        if self._disk is None or not keys:
            return {}
        rows = self._disk.get_many(keys).items()
        decoded = ((key, _from_bytes(value)) for key, value in rows)
        return {key: score for key, score in decoded if score is not None}

    def _before_fork(self) -> None:
        if self._disk is not None:
            self._disk.before_fork()
        self._lock.acquire()

    def _after_fork_in_parent(self) -> None:
        self._lock.release()
        if self._disk is not None:
            self._disk.after_fork_in_parent()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        if self._disk is not None:
            self._disk.after_fork_in_child()


class KeyHasher:
    """Computes keys with common leading parts, which are hashed once.

    Each part is hashed with its type and its length, so that ("ab", "c") and ("a", "bc") differ, and so do 1,
    "1", 1.0, True and None.

    Args:
        parts: Leading parts of all keys.

    Raises:
        InputTypeError: A part has an unsupported type.
    """

    def __init__(self, *parts: Part) -> None:
        self._hasher = hashlib.blake2b(digest_size=_DIGEST_SIZE)
        self._hasher.update(b"".join(map(_encode, parts)))

    def extended(self, *parts: Part) -> KeyHasher:
        """Return a hasher with further leading parts."""
        longer = KeyHasher()
        longer._hasher = self._hasher.copy()
        longer._hasher.update(b"".join(map(_encode, parts)))
        return longer

    def key(self, *parts: Part) -> bytes:
        """Return the key, 32 bytes, of the leading parts followed by these.

        Raises:
            InputTypeError: A part has an unsupported type.
        """
        hasher = self._hasher.copy()
        hasher.update(b"".join(map(_encode, parts)))
        return hasher.digest()


def _encode(part: Part) -> bytes:
    type_tag, payload = _tag_and_payload(part)
    return b"%b%d:%b" % (type_tag, len(payload), payload)


def _tag_and_payload(part: Part) -> tuple[bytes, bytes]:
    match part:
        case str():
            return b"s", part.encode("utf-8", "surrogatepass")
        case bytes():
            return b"b", part
        case bool():  # before int, its base class
            return b"o", b"1" if part else b"0"
        case int():
            return b"i", str(part).encode()
        case float():
            return b"f", struct.pack(">d", part)
        case None:
            return b"n", b""
    raise InputTypeError(
        f"a part of a cache key is a {type(part).__name__}; use str, bytes, int, float, bool or None"
    )


def _to_bytes(score: PairScore) -> bytes:
    """Return the form of a score on disk, which begins with its format number."""
    flags = _SPAN * (score.span is not None) + _TRUNCATED * score.truncated
    flags += _QUERY_TRUNCATED * score.query_truncated + sum(_WARNINGS[warning] for warning in score.warnings)
    return _VALUE.pack(_FORMAT, flags, score.log_odds, score.num_tokens, *(score.span or (0, 0)))


def _from_bytes(value: object) -> PairScore | None:
    """Return the score; None if the format or the score is invalid."""
    if not isinstance(value, bytes) or len(value) != _VALUE.size or value[0] != _FORMAT:
        return None
    _, flags, log_odds, num_tokens, start, end = _VALUE.unpack(value)
    if not math.isfinite(log_odds):
        return None
    return PairScore.from_log_odds(
        log_odds,
        truncated=bool(flags & _TRUNCATED),
        query_truncated=bool(flags & _QUERY_TRUNCATED),
        span=(start, end) if flags & _SPAN else None,
        num_tokens=num_tokens,
        cached=True,
        warnings=tuple(warning for warning, flag in _WARNINGS.items() if flags & flag),
    )


# During a fork no lock is held and no file is open in any thread: SQLite connections must not cross a fork.
_caches: weakref.WeakSet[ScoreCache] = weakref.WeakSet()
_held_in_fork: list[ScoreCache] = []
_fork_lock = threading.RLock()  # two threads may fork at once


def _before_fork() -> None:
    _fork_lock.acquire()
    _held_in_fork[:] = list(_caches)
    for cache in _held_in_fork:
        cache._before_fork()  # noqa: SLF001 - the class's own hook


def _after_fork_in_parent() -> None:
    for cache in _held_in_fork:
        cache._after_fork_in_parent()  # noqa: SLF001
    _held_in_fork.clear()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock  # noqa: PLW0603 - replaced, like the locks that it guards
    _fork_lock = threading.RLock()
    for cache in _held_in_fork:
        cache._after_fork_in_child()  # noqa: SLF001
    _held_in_fork.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
