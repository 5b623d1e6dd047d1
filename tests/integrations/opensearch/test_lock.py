"""One command at a time changes a cluster, and nothing of the lock is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
from opensearch_qwen_rerank import ClusterError, OpenSearchSettings, lock, locked
from opensearch_qwen_rerank.destroy import plan_destroy
from opensearch_qwen_rerank.plan import plan_apply

from tests.integrations.opensearch.fake_cluster import FakeCluster

pytestmark = pytest.mark.usefixtures("no_pauses")

SETTINGS = OpenSearchSettings(service="http://reranker:8501", fields=("body",))


def apply(cluster: FakeCluster) -> None:
    with locked(cluster):
        for _ in plan_apply(cluster, SETTINGS).run(cluster):
            assert cluster.lock


def test_a_second_command_is_refused_while_the_first_one_runs() -> None:
    cluster = FakeCluster()
    with locked(cluster):
        assert cluster.lock is not None
        with (
            pytest.raises(
                ClusterError, match=r"another command is changing the cluster: .*process"
            ) as caught,
            locked(cluster),
        ):
            pass
        assert "delete the index '.qwen-rerank-lock'" in str(caught.value)
        assert cluster.lock["owner"], "the second command removed the first one's lock"
    with locked(cluster):
        pass


def test_the_index_goes_with_the_last_pipeline() -> None:
    cluster = FakeCluster()
    apply(cluster)
    assert cluster.lock == {}, "the lock was released, its index stays for the next command"
    with locked(cluster):
        for _ in plan_destroy(cluster, SETTINGS).run(cluster):
            pass
    assert cluster.lock is None


def test_a_command_that_fails_releases_its_lock() -> None:
    cluster = FakeCluster()
    with pytest.raises(KeyError), locked(cluster):
        raise KeyError
    assert cluster.lock is None, "no pipeline was made"


def test_a_lock_that_a_killed_command_left_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    left = locked(cluster)
    left.__enter__()
    with pytest.raises(ClusterError), locked(cluster):
        pass
    now = time.time() + lock.EXPIRY_S + 1
    monkeypatch.setattr(time, "time", lambda: now)
    with locked(cluster):
        owner = (cluster.lock or {})["owner"]
        left.__exit__(None, None, None)  # the first command was slow, not dead
        assert (cluster.lock or {})["owner"] == owner, "it keeps its hands off another one's lock"


@pytest.mark.parametrize("moment", ["GET", "PUT", "DELETE"])
def test_a_lock_that_changes_between_two_requests_is_never_held_twice(moment: str) -> None:
    """Another command takes the expired lock, or releases it, before the request of this one arrives."""

    class Raced(FakeCluster):
        meddled = False

        def request(
            self,
            method: str,
            path: str,
            body: Mapping[str, Any] | None = None,
            params: Mapping[str, str] | None = None,
        ) -> Any:
            if method == moment and path.endswith("/lock") and not self.meddled:
                self.meddled = True
                self.lock = {"owner": "other", "holder": "other", "expires_at": 1e12}
                self._num_locks += 1
            return super().request(method, path, body, params)

    cluster = Raced()
    cluster.lock = {"owner": "dead", "holder": "dead", "expires_at": 0.0}
    with pytest.raises(ClusterError, match="changing the cluster: other"), locked(cluster):
        pass
    assert cluster.lock["owner"] == "other"


def test_of_many_commands_at_once_each_has_the_cluster_for_itself() -> None:
    cluster, guard = FakeCluster(), threading.Lock()
    inside, most, done = 0, 0, 0
    plain = cluster.request

    def request(*given: Any, **options: Any) -> Any:
        with guard:
            return plain(*given, **options)

    cluster.request = request  # type: ignore[method-assign]

    def run() -> None:
        nonlocal inside, most, done
        while True:
            try:
                with locked(cluster):
                    inside += 1
                    most = max(most, inside)
                    inside -= 1
                    done += 1
                    return
            except ClusterError:
                pass

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done, cluster.lock) == (1, 8, None)
