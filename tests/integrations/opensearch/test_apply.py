"""Plans on a cluster in memory: what they change, and what an interruption after any request leaves."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from opensearch_qwen_rerank import (
    ForeignObjectError,
    OpenSearchSettings,
    UnsupportedClusterError,
    VerificationError,
)
from opensearch_qwen_rerank import steps as steps_module
from opensearch_qwen_rerank.destroy import plan_destroy
from opensearch_qwen_rerank.errors import ClusterError
from opensearch_qwen_rerank.plan import plan_apply
from opensearch_qwen_rerank.request_bodies import (
    ALLOWED_SETTING,
    PRIVATE_ENDPOINTS_SETTING,
    PRIVATE_IP_SETTING,
    TRUSTED_SETTING,
)
from opensearch_qwen_rerank.verification import verify

from qwen_rerank_plugins import ConfigurationError
from tests.integrations.opensearch.fake_cluster import REFUSED, FakeCluster, Killed

pytestmark = pytest.mark.usefixtures("no_pauses")

REGEX = "^http://reranker:8501/v1/rerank$"


def settings(**changes: Any) -> OpenSearchSettings:
    return OpenSearchSettings(
        **{"pipeline": "books", "service": "http://reranker:8501", "fields": ("title", "body"), **changes}
    )


def apply(cluster: FakeCluster, chosen: OpenSearchSettings, **options: Any) -> list[str]:
    """Plan and execute; return the executed steps."""
    plan = plan_apply(cluster, chosen, **options)
    return [str(step) for step, _ in plan.run(cluster)]


def destroy(cluster: FakeCluster, chosen: OpenSearchSettings, **options: Any) -> list[str]:
    """Do the same for a removal."""
    plan = plan_destroy(cluster, chosen, **options)
    return [str(step) for step, _ in plan.run(cluster)]


CHANGES: list[dict[str, Any]] = [
    {"recipe": "native"},
    {"recipe": "simple"},
    {"service": "http://other:9000"},
    {"service": "https://public.example.org"},
    {"fields": ("body",), "score": "log_odds", "oversample": 1},
    {"read_timeout_s": 20},
    {"default_for": ()},
    {"default_for": ("books", "papers")},
]


class FindsNothing(FakeCluster):
    """A cluster whose searches have no hits."""

    def _index(self, method: str, parts: list[str], body: Any) -> Any:
        if parts[-1] == "_search":
            return {"hits": {"hits": []}}
        written = parts[0].startswith("qwen-rerank-verify") and method == "PUT"
        return {} if written else super()._index(method, parts, body)


def test_verify_names_a_query_path_that_searches_in_a_field_that_is_not_ranked() -> None:
    cluster = FindsNothing()
    chosen = settings(query_path="query.match.summary.query")
    apply(cluster, chosen)
    with pytest.raises(
        VerificationError, match=r"found no text of the field 'title': .*'summary'.*Use a query path"
    ):
        verify(cluster, chosen)


@pytest.mark.parametrize("version", ["2.19.1", "3.6.0", "3.8.0"])
def test_a_second_apply_changes_nothing(version: str) -> None:
    cluster = FakeCluster(version)
    assert apply(cluster, settings())[-1] == "finish settings of the cluster"
    before = cluster.inventory()
    assert apply(cluster, settings()) == []
    assert cluster.inventory() == before
    assert cluster.serves()


def test_planning_changes_nothing() -> None:
    cluster = FakeCluster(indices={"books": None})
    assert plan_apply(cluster, settings(default_for=("books",))).steps
    assert plan_destroy(cluster, settings()).steps == ()
    assert cluster.writes == []


SWITCHING = [change for change in CHANGES if "default_for" not in change]


@pytest.mark.parametrize("change", SWITCHING, ids=str)
@pytest.mark.parametrize("private_network", [True, False])
def test_searches_are_reranked_after_every_request_of_a_change(
    change: dict[str, Any], private_network: bool
) -> None:
    """Also after an interruption and a second run; a change of the shared settings replaces the model, too."""
    first = settings(private_network=private_network)
    new = settings(**change)
    for kill_after in (None, *range(1, 14)):
        cluster = FakeCluster("3.8.0")
        apply(cluster, first)
        cluster.writes.clear()
        reranked: list[bool] = []
        cluster.on_write = lambda cluster=cluster, seen=reranked: seen.append(cluster.reranks("books"))  # type: ignore[misc]
        cluster.kill_after = kill_after
        with suppress(Killed):
            apply(cluster, new)
        cluster.kill_after = None
        apply(cluster, new)
        assert reranked == [True] * len(cluster.writes), kill_after
        assert cluster.serves()
        assert apply(cluster, new) == []


@pytest.mark.parametrize("recipe", ["rich", "simple"])
def test_a_model_that_does_not_answer_replaces_none(recipe: str) -> None:
    cluster = FakeCluster()
    apply(cluster, settings(recipe=recipe))
    before = cluster.pipelines["books"]
    cluster.service_answers = False
    with pytest.raises(VerificationError, match="keeps its present one: Connection refused"):
        apply(cluster, settings(recipe=recipe, service="http://wrong:1"))
    assert cluster.pipelines["books"] == before
    assert cluster.reranks("books")
    cluster.service_answers = True
    apply(cluster, settings(recipe=recipe))
    assert [len(there) for there in cluster.objects.values()] == [1, 1, 1]
    assert cluster.reranks("books")
    assert apply(cluster, settings(recipe=recipe)) == []


@pytest.mark.parametrize(
    ("service", "private", "num_warnings"),
    [
        ("http://reranker:8501", False, 2),
        ("http://reranker:8501", True, 1),
        ("http://127.0.0.1:8501", True, 0),
        ("http://localhost:8501", True, 0),
        ("https://reranker.example.org", False, 0),
    ],
)
def test_a_plan_warns_of_what_concerns_the_whole_cluster_and_of_texts_in_the_clear(
    service: str, private: bool, num_warnings: int
) -> None:
    cluster = FakeCluster()
    if private:
        cluster.persistent[PRIVATE_IP_SETTING] = "true"
    warnings = plan_apply(cluster, settings(service=service)).warnings
    assert len(warnings) == num_warnings, warnings
    assert any("for the whole cluster" in one for one in warnings) is (num_warnings == 2)
    assert any("has no TLS" in one for one in warnings) is (num_warnings > 0)


def test_a_first_apply_needs_no_service_yet() -> None:
    cluster = FakeCluster()
    cluster.service_answers = False
    assert "verify model qwen_rerank_books" not in apply(cluster, settings())


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("version", ["2.19.1", "3.8.0"])
def test_a_change_ends_in_the_same_state_as_a_fresh_apply(version: str, change: dict[str, Any]) -> None:
    first = settings(default_for=("books",))
    new = first.model_copy(update=change)
    changed, fresh = (FakeCluster(version, {"books": None, "papers": None}) for _ in range(2))
    apply(changed, first)
    apply(changed, new)
    apply(fresh, new)
    for cluster in (changed, fresh):  # original values are kept until the last pipeline is removed
        cluster.persistent.pop("cluster.metadata.qwen_rerank.earlier")
    assert changed.inventory() == fresh.inventory()
    assert changed.serves()


@pytest.mark.parametrize("change", [{}, *CHANGES], ids=str)
def test_apply_killed_after_any_request_and_run_again_ends_in_the_same_state(change: dict[str, Any]) -> None:
    """The kill comes after the request took effect; the ids in its response are lost."""
    first = settings(default_for=("books",))
    new = first.model_copy(update=change)

    def start() -> FakeCluster:
        cluster = FakeCluster("3.8.0", {"books": None, "papers": None})
        if change:
            apply(cluster, first)
        cluster.writes.clear()
        return cluster

    whole = start()
    apply(whole, new)
    assert len(whole.writes) >= 2
    for count in range(1, len(whole.writes) + 1):
        cluster = start()
        cluster.kill_after = count
        with pytest.raises(Killed):
            apply(cluster, new)
        cluster.kill_after = None
        apply(cluster, new)
        assert cluster.inventory() == whole.inventory(), count
        assert cluster.serves()
        assert apply(cluster, new) == []


def test_destroy_killed_after_any_request_and_run_again_removes_everything() -> None:
    def start() -> FakeCluster:
        cluster = FakeCluster("3.8.0", {"books": "old", "papers": None})
        cluster.persistent["other.setting"] = "kept"
        return cluster

    found = start().inventory()
    whole = start()
    apply(whole, settings(default_for=("books",)), force=True)
    whole.writes.clear()
    destroy(whole, settings())
    assert whole.inventory() == found
    for count in range(1, len(whole.writes) + 1):
        cluster = start()
        apply(cluster, settings(default_for=("books",)), force=True)
        cluster.writes.clear()
        cluster.kill_after = count
        with pytest.raises(Killed):
            destroy(cluster, settings())
        cluster.kill_after = None
        destroy(cluster, settings())
        assert cluster.inventory() == found, count
        assert destroy(cluster, settings()) == []


def test_a_model_deployed_with_older_settings_is_deployed_again_after_a_kill() -> None:
    """A deployed model keeps the settings that it was deployed with, and after the kill the settings look finished."""
    for count in (1, 2, 3):
        cluster = FakeCluster()
        apply(cluster, settings(private_network=False))
        cluster.writes.clear()
        cluster.kill_after = count
        with pytest.raises(Killed):
            apply(cluster, settings())
        cluster.kill_after = None
        apply(cluster, settings())
        assert cluster.serves(), count


def test_an_index_gets_its_default_pipeline_back_wherever_apply_was_killed() -> None:
    chosen = settings(default_for=("books",))
    whole = FakeCluster(indices={"books": "old"})
    apply(whole, chosen, force=True)
    for count in range(1, len(whole.writes) + 1):
        cluster = FakeCluster(indices={"books": "old"})
        found = cluster.inventory()
        cluster.kill_after = count
        with pytest.raises(Killed):
            apply(cluster, chosen, force=True)
        cluster.kill_after = None
        if count % 2:  # destroy may also follow directly
            apply(cluster, chosen, force=True)
        destroy(cluster, chosen)
        assert cluster.inventory() == found, count


@pytest.mark.parametrize(
    "before",
    [
        {},
        {PRIVATE_IP_SETTING: "true"},
        {PRIVATE_IP_SETTING: "false"},
        {TRUSTED_SETTING: ["^https://only\\.this/.*$"]},
        {TRUSTED_SETTING: ["^https://b/$", REGEX, "^https://a/$"], PRIVATE_ENDPOINTS_SETTING: ["^x$"]},
    ],
    ids=str,
)
def test_destroy_restores_every_setting_exactly(before: dict[str, Any]) -> None:
    cluster = FakeCluster("3.8.0")
    cluster.persistent.update(before)
    found = cluster.inventory()
    apply(cluster, settings())
    trusted = cluster.persistent[TRUSTED_SETTING]
    assert set(before.get(TRUSTED_SETTING, cluster.defaults[TRUSTED_SETTING])) < {*trusted, "more"}
    assert REGEX in trusted
    destroy(cluster, settings())
    assert cluster.inventory() == found


def test_destroy_keeps_what_somebody_else_added() -> None:
    cluster = FakeCluster()
    apply(cluster, settings())
    cluster.persistent[TRUSTED_SETTING].append("^https://new/$")
    destroy(cluster, settings())
    assert cluster.persistent[TRUSTED_SETTING] == [*cluster.defaults[TRUSTED_SETTING], "^https://new/$"]
    assert set(cluster.persistent) == {TRUSTED_SETTING}


@pytest.mark.parametrize("same_service", [True, False])
def test_two_pipelines_share_the_settings_and_the_last_one_restores_them(same_service: bool) -> None:
    cluster = FakeCluster()
    found = cluster.inventory()
    books = settings()
    papers = settings(pipeline="papers", service="http://reranker:8501" if same_service else "http://b:1")
    apply(cluster, books)
    apply(cluster, papers)
    assert apply(cluster, books) == []
    destroy(cluster, books)
    assert apply(cluster, papers) == [], "the other pipeline lost something"
    assert (REGEX in cluster.persistent[TRUSTED_SETTING]) is same_service
    assert cluster.persistent[PRIVATE_IP_SETTING] == "true"
    destroy(cluster, papers)
    assert cluster.inventory() == found


def test_values_and_their_record_are_written_in_one_request() -> None:
    cluster = FakeCluster()
    apply(cluster, settings())
    _, path, body = cluster.writes[0]
    assert path == "/_cluster/settings"
    assert {TRUSTED_SETTING, PRIVATE_IP_SETTING, "cluster.metadata.qwen_rerank.earlier"} <= set(
        body["persistent"]
    )
    destroy(cluster, settings())
    assert cluster.writes[-1][2]["persistent"] == dict.fromkeys(body["persistent"])


def test_a_duplicate_that_a_lost_response_left_is_removed() -> None:
    cluster = FakeCluster()
    apply(cluster, settings())
    (connector,) = cluster.objects["connectors"].values()
    (model,) = cluster.objects["models"].values()
    cluster.objects["connectors"]["copy-c"] = {**connector, "created_time": 99}
    cluster.objects["models"]["copy-m"] = {**model, "created_time": 99, "connector_id": "copy-c"}
    apply(cluster, settings())
    assert [len(there) for there in cluster.objects.values()] == [1, 1, 1]
    assert apply(cluster, settings()) == []


def test_what_was_deleted_by_hand_is_created_again() -> None:
    cluster = FakeCluster()
    apply(cluster, settings())
    cluster.objects["connectors"].clear()
    apply(cluster, settings())
    (model,) = cluster.objects["models"].values()
    assert model["connector_id"] in cluster.objects["connectors"]
    cluster.objects["models"].clear()
    apply(cluster, settings())
    (model_id,) = cluster.objects["models"]
    assert model_id in json.dumps(cluster.pipelines["books"])
    assert apply(cluster, settings()) == []


def test_an_undeployed_model_is_deployed_again() -> None:
    cluster = FakeCluster()
    apply(cluster, settings())
    for model in cluster.objects["models"].values():
        model["model_state"] = "UNDEPLOYED"
    assert "deploy model qwen_rerank_books" in apply(cluster, settings())
    assert apply(cluster, settings()) == []


def test_a_new_key_is_sent_and_never_shown() -> None:
    cluster = FakeCluster()
    apply(cluster, settings(), service_key="first-secret")
    assert apply(cluster, settings(), service_key="first-secret") == []
    assert "create connector qwen_rerank_books" in apply(cluster, settings(), service_key="second-secret")
    assert list(cluster.credentials.values()) == [{"api_key": "second-secret"}]
    plan = plan_apply(FakeCluster(), settings(), service_key="first-secret")
    assert "secret" not in json.dumps(plan.to_json()) + json.dumps(cluster.inventory())


def test_a_foreign_pipeline_is_neither_changed_nor_removed() -> None:
    cluster = FakeCluster()
    cluster.pipelines["books"] = {"description": "mine", "response_processors": []}
    with pytest.raises(ForeignObjectError, match="'books' exists that this command did not create"):
        apply(cluster, settings())
    plan = plan_destroy(cluster, settings())
    assert (plan.steps, len(plan.warnings)) == ((), 1)


def test_a_foreign_default_pipeline_is_replaced_only_with_force_and_restored() -> None:
    cluster = FakeCluster(indices={"books": "theirs"})
    chosen = settings(default_for=("books",))
    with pytest.raises(ForeignObjectError, match=r"'theirs'\. Use --force"):
        apply(cluster, chosen)
    assert cluster.writes == []
    apply(cluster, chosen, force=True)
    assert cluster.indices == {"books": "books"}
    assert apply(cluster, chosen) == [], "a forced change needs no force again"
    destroy(cluster, settings())
    assert cluster.indices == {"books": "theirs"}


def test_destroy_refuses_while_an_index_of_somebody_else_uses_the_pipeline() -> None:
    cluster = FakeCluster(indices={"papers": None})
    apply(cluster, settings())
    cluster.indices["papers"] = "books"
    with pytest.raises(ForeignObjectError, match="'papers' has 'books' as default pipeline"):
        plan_destroy(cluster, settings())
    destroy(cluster, settings(), force=True)
    assert cluster.indices == {"papers": None}


@pytest.mark.parametrize("processor", ["oversample", "rerank", "ml_inference"])
def test_a_cluster_without_a_processor_is_refused_before_anything_is_changed(processor: str) -> None:
    cluster = FakeCluster()
    cluster.processors.remove(processor)
    with pytest.raises(UnsupportedClusterError, match=f"no search processor '{processor}'"):
        apply(cluster, settings())
    assert cluster.writes == []


def test_a_transient_value_that_would_hide_ours_is_refused() -> None:
    cluster = FakeCluster()
    cluster.transient[TRUSTED_SETTING] = []
    with pytest.raises(ForeignObjectError, match="transient value"):
        apply(cluster, settings())
    assert cluster.writes == []


def test_an_index_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="default_for names an index that does not exist: 'nothing'"):
        apply(FakeCluster(), settings(default_for=("nothing",)))


def test_a_connector_is_created_when_the_cluster_has_its_encryption_key() -> None:
    """Without the key, which the cluster creates after the first use, it answers with 404."""
    cluster = FakeCluster()
    steps = plan_apply(cluster, settings()).run(cluster)
    next(steps)  # the settings
    cluster.refusals = [ClusterError(REFUSED, status=404), ClusterError(REFUSED, status=404)]
    list(steps)
    assert apply(cluster, settings()) == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("model_groups", {"name": "qwen_rerank_books", "description": "of somebody else"}),
        ("models", {"name": "a", "description": "b", "connector_id": "id-1", "model_group_id": "x"}),
        ("models", {"name": "a", "description": "b", "connector_id": "y", "model_group_id": "id-2"}),
    ],
)
def test_what_really_exists_refuses_a_change_at_once(kind: str, body: dict[str, str]) -> None:
    """A group of the same name, or somebody else's model of our connector or group."""
    cluster = FakeCluster()
    change = apply
    if kind == "models":
        apply(cluster, settings())
        change = destroy
    cluster.objects[kind]["theirs"] = {**body, "model_state": "REGISTERED"}
    started_s = time.monotonic()
    with pytest.raises(ClusterError, match=REFUSED):
        change(cluster, settings())
    assert time.monotonic() - started_s < steps_module.STALE_SEARCH_TIMEOUT_S / 2


@pytest.mark.parametrize(("lag", "searches"), [(0, 0), (1, 0), (45, 0), (0, 1), (0, 3), (2, 2)])
@pytest.mark.parametrize("change", ["connector", "removal"])
def test_a_change_waits_until_the_model_is_undeployed(lag: int, searches: int, change: str) -> None:
    """A cluster answers before it writes a model's state, and a search in between deploys the model again."""
    cluster = FakeCluster()
    untouched = cluster.inventory()
    apply(cluster, settings())
    cluster.lag, cluster.searches = lag, searches
    if change == "connector":
        assert "create connector qwen_rerank_books" in apply(cluster, settings(service="http://other:9000"))
        assert cluster.serves()
    else:
        destroy(cluster, settings())
        assert cluster.inventory() == untouched
    assert cluster.searches == 0


@pytest.mark.parametrize("change", ["connector", "removal"])
def test_a_model_that_a_late_deployment_restores_is_undeployed_again(
    change: str,
) -> None:
    """A deployment that is under way overwrites the first undeployments, so waiting alone would never end."""
    cluster = FakeCluster()
    untouched = cluster.inventory()
    apply(cluster, settings())
    cluster.late_deployments = 2
    if change == "connector":
        apply(cluster, settings(service="http://other:9000"))
        assert cluster.serves()
    else:
        destroy(cluster, settings())
        assert cluster.inventory() == untouched
    assert cluster.late_deployments == 0


def test_a_model_that_is_never_undeployed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "DEPLOY_TIMEOUT_S", 0.05)
    cluster = FakeCluster()
    apply(cluster, settings())
    cluster.lag = 10**9
    with pytest.raises(ClusterError, match="still deployed after 0 s: 'DEPLOYED'"):
        destroy(cluster, settings())


def test_destroy_continues_if_an_object_is_gone_already() -> None:
    cluster = FakeCluster()
    untouched = cluster.inventory()
    apply(cluster, settings())
    plan = plan_destroy(cluster, settings())
    cluster.objects["models"].clear()
    cluster.objects["model_groups"].clear()
    assert [step.action for step, _ in plan.run(cluster)][-1] == "restore"
    assert cluster.inventory() == untouched


def test_any_other_error_is_raised_at_once() -> None:
    cluster = FakeCluster()
    cluster.refusals = [ClusterError("no permissions", status=403)]
    with pytest.raises(ClusterError, match="no permissions"):
        apply(cluster, settings())


def test_native_needs_no_plugin_but_its_own() -> None:
    """A cluster of the core alone, where ML Commons' addresses do not exist."""
    cluster = FakeCluster()
    cluster.processors = {"qwen_rerank"}
    before = cluster.inventory()
    cluster.objects = {}
    chosen = settings(recipe="native")
    apply(cluster, chosen)
    assert cluster.persistent[ALLOWED_SETTING] == ["http://reranker:8501"]
    assert TRUSTED_SETTING not in cluster.persistent
    assert apply(cluster, chosen) == []
    destroy(cluster, chosen)
    cluster.objects = {"connectors": {}, "model_groups": {}, "models": {}}
    assert cluster.inventory() == before


def test_native_without_the_plugin_is_refused() -> None:
    cluster = FakeCluster()
    cluster.processors -= {"qwen_rerank"}
    with pytest.raises(UnsupportedClusterError, match="Install the plugin qwen-rerank on every node"):
        apply(cluster, settings(recipe="native"))


def test_native_replaces_a_model_after_the_pipeline_stopped_using_it() -> None:
    cluster = FakeCluster()
    apply(cluster, settings())
    steps = apply(cluster, settings(recipe="native"))
    assert cluster.objects["models"] == cluster.objects["connectors"] == {}
    kinds = [step.split()[1] for step in steps]
    assert kinds.index("pipeline") < kinds.index("model")
    assert TRUSTED_SETTING not in cluster.persistent
