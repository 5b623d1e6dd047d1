from __future__ import annotations

import logging
import math
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank_plugins.core.score_cache.disk import DiskCache
from qwen_rerank_plugins.core.score_cache.memory import KeyHasher, ScoreCache, _from_bytes, _to_bytes
from qwen_rerank_plugins.errors import ConfigurationError, InputTypeError
from qwen_rerank_plugins.recipe import TEXT_WARNINGS
from qwen_rerank_plugins.types import PairScore
from tests.laws.sources import plain_environment


def key(name: str | int) -> bytes:
    return KeyHasher("test", name).key()


def score(log_odds: float = 0.5, **fields: Any) -> PairScore:
    """A score as lookups return it."""
    return PairScore.from_log_odds(log_odds, cached=True, **fields)


def run_python(code: str, *args: str) -> str:
    """Run a script without coverage: a fork may copy coverage's own lock while another thread holds it."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=plain_environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------------- keys

PARTS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.binary() | st.text()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", None, "b"), ("a", "", "b")),
        (("1",), (1,)),
        ((1,), (1.0,)),
        ((1,), (True,)),
        ((0,), (False,)),
        ((None,), ()),
        (("a",), (b"a",)),
        ((0.0,), (-0.0,)),
        (("a", "b"), ("asb",)),
        (("a", "b"), ("as1:b",)),
        (("\ud800",), ("\udfff",)),
    ],
)
def test_different_parts_give_different_keys(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """Parts are joined with their types and lengths; joining the texts alone would confuse each of these."""
    assert KeyHasher(*one).key() != KeyHasher(*other).key()


@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
def test_keys_are_equal_only_for_equal_parts_of_equal_types(one: list[Any], other: list[Any]) -> None:
    same = [(type(part), repr(part)) for part in one] == [(type(part), repr(part)) for part in other]
    assert (KeyHasher(*one).key() == KeyHasher(*other).key()) == same
    assert len(KeyHasher(*one).key()) == 32


@given(st.lists(PARTS, max_size=3), st.lists(PARTS, max_size=3), st.lists(PARTS, max_size=3))
def test_an_extended_hasher_returns_the_key_of_all_parts(
    head: list[Any], more: list[Any], tail: list[Any]
) -> None:
    expected = KeyHasher(*head, *more, *tail).key()
    hasher = KeyHasher(*head)
    assert hasher.extended(*more).key(*tail) == expected
    assert hasher.key(*more, *tail) == expected, "extending must not change the hasher itself"


def test_a_part_of_a_foreign_type_is_refused() -> None:
    with pytest.raises(InputTypeError, match="list"):
        KeyHasher([1])  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ values


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.booleans(),
    st.none() | st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)),
    st.integers(0, 2**40),
    st.lists(st.sampled_from(TEXT_WARNINGS), unique=True).map(
        lambda some: sorted(some, key=TEXT_WARNINGS.index)
    ),
)
def test_a_score_survives_its_form_on_disk(
    log_odds: float,
    truncated: bool,
    query_truncated: bool,
    span: tuple[int, int] | None,
    tokens: int,
    warnings: list[str],
) -> None:
    value = score(
        log_odds,
        truncated=truncated,
        query_truncated=query_truncated,
        span=span,
        num_tokens=tokens,
        warnings=tuple(warnings),
    )
    assert _from_bytes(_to_bytes(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x01",
        _to_bytes(score())[:-1],
        b"\x01" + _to_bytes(score())[1:],
        _to_bytes(PairScore(0.5, math.nan)),
        "text",
    ],
)
def test_a_damaged_or_foreign_value_is_no_score(value: object) -> None:
    assert _from_bytes(value) is None


# ------------------------------------------------------------------------------------------------------ memory


def test_scores_come_back_in_the_order_of_the_keys() -> None:
    cache = ScoreCache(10)
    cache.put_many([(key("a"), score(1.0)), (key("b"), score(2.0))])
    assert cache.get_many([key("b"), key("x"), key("a"), key("b")]) == [
        score(2.0),
        None,
        score(1.0),
        score(2.0),
    ]
    stats = cache.stats()
    assert (stats.entries, stats.hits, stats.misses, stats.hit_rate) == (2, 3, 1, 0.75)
    assert ScoreCache(1).stats().hit_rate == 0.0


def test_the_least_recently_used_score_is_forgotten() -> None:
    cache = ScoreCache(2)
    cache.put_many([(key("a"), score()), (key("b"), score())])
    cache.get_many([key("a")])
    cache.put_many([(key("c"), score())])
    assert cache.get_many([key("a"), key("b"), key("c")]) == [score(), None, score()]


def test_a_cache_of_no_entries_remembers_nothing() -> None:
    cache = ScoreCache(0)
    cache.put_many([(key("a"), score())])
    assert cache.get_many([key("a")]) == [None]


def test_a_lookup_marks_the_score_as_cached_and_leaves_the_stored_object_alone() -> None:
    cache = ScoreCache(10)
    fresh = PairScore.from_log_odds(0.5)
    cache.put_many([(key("a"), fresh)])
    assert cache.get_many([key("a")]) == [score(0.5)]
    assert not fresh.cached


@pytest.mark.parametrize(
    "arguments", [{"max_entries": -1}, {"max_entries": 1, "max_disk_entries": 0, "path": "scores"}]
)
def test_impossible_limits_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        ScoreCache(**arguments)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- disk


def test_scores_outlive_the_cache_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "cache.sqlite"
    value = score(-3.25, truncated=True, span=(3, 9), num_tokens=77)
    with_file = ScoreCache(10, path=path)
    with_file.put_many([(key("a"), value)])
    with_file.close()

    again = ScoreCache(10, path=path)
    assert again.get_many([key("a"), key("b")]) == [value, None]
    assert again.get_many([key("a")]) == [value]
    stats = again.stats()
    assert (stats.hits, stats.disk_hits, stats.disk_entries, stats.disk_usable) == (2, 1, 1, True)
    assert stats.disk_bytes > 0
    again.close()


def test_the_file_holds_no_more_rows_than_allowed_and_forgets_the_oldest_use(tmp_path: Path) -> None:
    cache = ScoreCache(0, path=tmp_path / "cache", max_disk_entries=3)
    for name in "abc":
        cache.put_many([(key(name), score())])
    assert cache.get_many([key("a")]) == [score()]
    cache.put_many([(key("d"), score())])
    cache.put_many([(key("d"), score(9.0))])  # replaced, not added
    found = cache.get_many([key(name) for name in "abcd"])
    assert found == [score(), None, score(), score(9.0)]
    assert cache.stats().disk_entries == 3
    cache.put_many([(key(number), score()) for number in range(10)])
    assert cache.stats().disk_entries == 3
    cache.close()


def test_more_keys_than_a_statement_takes_are_found(tmp_path: Path) -> None:
    cache = ScoreCache(0, path=tmp_path / "cache")
    cache.put_many([(key(number), score(number)) for number in range(1201)])
    assert cache.get_many([key(number) for number in range(1201)]) == [score(n) for n in range(1201)]
    cache.close()


def test_clear_forgets_memory_and_disk_and_close_ends_everything(tmp_path: Path) -> None:
    cache = ScoreCache(10, path=tmp_path / "cache")
    cache.put_many([(key("a"), score())])
    cache.clear()
    assert cache.get_many([key("a")]) == [None]
    assert cache.stats().disk_entries == 0
    cache.put_many([(key("b"), score())])
    cache.close()
    cache.close()
    cache.put_many([(key("c"), score())])
    assert cache.get_many([key("b"), key("c")]) == [None, None]
    cache.clear()


def test_no_text_reaches_the_file(tmp_path: Path) -> None:
    cache = ScoreCache(10, path=tmp_path / "cache")
    cache.put_many([(KeyHasher("secret query", "secret document").key(), score())])
    cache.close()
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def make_garbage(path: Path) -> None:
    path.write_bytes(b"this is no database " * 500)


def make_foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE entries (mine TEXT)")
    connection.close()


def make_folder(path: Path) -> None:
    path.mkdir()


def make_file_above(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file where a folder should be")


@pytest.mark.parametrize("damage", [make_garbage, make_foreign_database, make_folder, make_file_above])
def test_an_unusable_file_gives_one_warning_and_the_cache_goes_on_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    path = tmp_path / "folder" / "cache"
    path.parent.mkdir()
    damage(path)
    before = path.read_bytes() if path.is_file() else b""
    cache = ScoreCache(10, path=path)
    with caplog.at_level(logging.WARNING):
        cache.put_many([(key("a"), score())])
        assert cache.get_many([key("a"), key("b")]) == [score(), None]
        assert (cache.stats().disk_usable, cache.stats().disk_entries) == (False, 0)
        cache.clear()
        cache.close()
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    assert (path.read_bytes() if path.is_file() else b"") == before, "somebody else's file is left as it is"


def test_a_file_damaged_in_use_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache"
    cache = ScoreCache(0, path=path)
    cache.put_many([(key(number), score()) for number in range(2000)])
    cache.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    again = ScoreCache(10, path=path)
    again.put_many([(key("new"), score())])
    assert again.get_many([key("new"), *[key(number) for number in range(5)]]) == [score(), *[None] * 5]
    assert not again.stats().disk_usable
    assert len(caplog.records) == 1


def test_a_damaged_row_is_a_miss(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path / "cache", max_entries=10)
    disk.put_many([(key("a"), b"short"), (key("b"), _to_bytes(score()))])
    disk.close()
    cache = ScoreCache(10, path=tmp_path / "cache")
    assert cache.get_many([key("a"), key("b")]) == [None, score()]
    cache.close()


def test_a_file_that_another_process_is_writing_is_passed_over_and_used_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_rerank_plugins.core.score_cache.disk._BUSY_TIMEOUT_S", 0.0)
    cache = ScoreCache(0, path=tmp_path / "cache")
    cache.put_many([(key("a"), score())])
    writer = sqlite3.connect(tmp_path / "cache", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    cache.put_many([(key("b"), score())])
    assert cache.get_many([key("a"), key("b")]) == [score(), None], "reading works while another writes"
    writer.execute("ROLLBACK")
    writer.close()
    cache.put_many([(key("b"), score())])
    assert cache.get_many([key("b")]) == [score()]
    assert not caplog.records
    cache.close()


def test_threads_share_one_cache(tmp_path: Path) -> None:
    cache = ScoreCache(50, path=tmp_path / "cache")
    wrong: list[object] = []

    def work(worker: int) -> None:
        for number in range(30):
            name = number * 8 + worker
            cache.put_many([(key(name), score(name))])
            if cache.get_many([key(name)]) != [score(name)]:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert cache.stats().disk_entries == 240
    cache.close()


WRITER = """
import sys
from qwen_rerank_plugins.core.score_cache import disk
from qwen_rerank_plugins.core.score_cache.memory import KeyHasher, ScoreCache
from qwen_rerank_plugins.recipe import TEXT_WARNINGS
from qwen_rerank_plugins.types import PairScore
disk._BUSY_TIMEOUT_S = 30.0  # nothing is passed over
cache = ScoreCache(0, path=sys.argv[1])
first = int(sys.argv[2])
for number in range(first, first + 50):
    cache.put_many([(KeyHasher("test", number).key(), PairScore.from_log_odds(number, cached=True))])
cache.close()
"""


def test_processes_share_one_file(tmp_path: Path) -> None:
    """Both make the tables and both write; the count that triggers maintain equals the number of rows."""
    path = tmp_path / "cache"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first)]) for first in (0, 50)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    cache = ScoreCache(0, path=path)
    found = cache.get_many([key(number) for number in range(100)])
    assert found == [score(number) for number in range(100)]
    assert cache.stats().disk_entries == 100
    cache.close()


FORK = """
import os, sys, threading
from qwen_rerank_plugins.core.score_cache.memory import KeyHasher, ScoreCache
from qwen_rerank_plugins.recipe import TEXT_WARNINGS
from qwen_rerank_plugins.types import PairScore
cache = ScoreCache(10, path=sys.argv[1])
cache.put_many([(KeyHasher("before").key(), PairScore.from_log_odds(1.0, cached=True))])
stop = threading.Event()
def hammer():
    number = 0
    while not stop.is_set():
        number += 1
        cache.put_many([(KeyHasher("hammer", number % 50).key(), PairScore.from_log_odds(number, cached=True))])
threads = [threading.Thread(target=hammer) for _ in range(3)]
for thread in threads: thread.start()
codes = []
for child in range(6):
    pid = os.fork()
    if pid == 0:
        here = PairScore.from_log_odds(child, cached=True)
        ok = cache.get_many([KeyHasher("before").key()]) == [PairScore.from_log_odds(1.0, cached=True)]
        for _ in range(20):  # another process may be writing
            cache.put_many([(KeyHasher("child", child).key(), here)])
            if cache._disk.get_many([KeyHasher("child", child).key()]): break
        ok = ok and cache.stats().disk_usable
        seen = []  # by another thread, for which a lock that the parent's thread held would stay taken
        reader = threading.Thread(target=lambda: seen.append(cache.stats().entries), daemon=True)
        reader.start()
        reader.join(30)
        ok = ok and bool(seen)
        os._exit(0 if ok else 1)
    codes.append(os.waitpid(pid, 0)[1])
stop.set()
for thread in threads: thread.join()
fresh = ScoreCache(0, path=sys.argv[1])
print(codes, sum(score is not None for score in fresh.get_many([KeyHasher("child", n).key() for n in range(6)])))
"""


def test_a_fork_carries_neither_a_held_lock_nor_an_open_file_across(tmp_path: Path) -> None:
    """Three threads write while the process forks six times; each child reads and writes the same file."""
    assert run_python(FORK, str(tmp_path / "cache")).split("]") == ["[0, 0, 0, 0, 0, 0", " 6\n"]
    with sqlite3.connect(tmp_path / "cache") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows, counted = connection.execute("SELECT count(*), max(num_entries) FROM entries, total").fetchone()
    connection.close()
    assert rows == counted
