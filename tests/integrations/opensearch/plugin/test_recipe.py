"""`opensearch-qwen-rerank --recipe native` on real clusters with the plugin."""

from __future__ import annotations

import pytest
from opensearch_qwen_rerank import OpenSearchSettings, VerificationError
from opensearch_qwen_rerank.cluster import OpenSearchCluster, get_or_none
from opensearch_qwen_rerank.destroy import plan_destroy
from opensearch_qwen_rerank.plan import plan_apply
from opensearch_qwen_rerank.verification import verify

from tests.integrations.opensearch.conftest import BOOT_TIMEOUT_S
from tests.integrations.opensearch.live.texts import INDEX
from tests.integrations.opensearch.nodes.services import RerankService
from tests.integrations.opensearch.plugin.conftest import Native, on_every_node

pytestmark = [on_every_node, pytest.mark.timeout(BOOT_TIMEOUT_S)]


def test_apply_verify_and_destroy_leave_the_cluster_unchanged(native: Native, service: RerankService) -> None:
    native.allow()
    there = OpenSearchCluster(native.cluster.client)

    def state() -> object:
        settings = native.cluster.request("GET", "/_cluster/settings", flat_settings="true")
        return settings, get_or_none(there, "/_search/pipeline/books")

    before = state()
    chosen = OpenSearchSettings(
        cluster=native.cluster.url,
        service=service.url,
        pipeline="books",
        recipe="native",
        fields=("text",),
        default_for=(INDEX,),
        read_timeout_s=60,
    )
    list(plan_apply(there, chosen).run(there))
    assert plan_apply(there, chosen).steps == ()
    report = verify(there, chosen)
    assert [stage.name for stage in report.stages if "qwen_rerank" in stage.name]
    answer = native.cluster.client.search(index=INDEX, body={"query": {"match": {"text": "largest animal"}}})
    assert answer["ext"]["qwen_rerank"]["status"] == "reranked"
    assert "previous_score" in answer["hits"]["hits"][0]["fields"]
    native.allow("http://127.0.0.1:1")
    with pytest.raises(VerificationError, match="not allowed"):
        verify(there, chosen)
    native.allow(service.url)
    list(plan_destroy(there, chosen).run(there))
    native.allow()
    assert state() == before
