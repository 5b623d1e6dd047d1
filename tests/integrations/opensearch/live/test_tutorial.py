"""The tutorial about OpenSearch runs on a node, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.tutorials import CLUSTER, SERVICE, faults, run_steps, steps_of
from tests.integrations.opensearch.nodes.cluster import Cluster
from tests.integrations.opensearch.nodes.services import RerankService
from tests.laws.sources import ROOT, plain_environment

PAGE = "docs/tutorials/opensearch.md"
VERSION = "3.6.0"
"""The version that the page names."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cluster", [VERSION], indirect=True)
def test_the_tutorial_prints_what_it_shows(
    clean_cluster: Cluster, service: RerankService, tmp_path: Path
) -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert f"OpenSearch {clean_cluster.version}" in text
    steps = steps_of(PAGE, text)
    before = clean_cluster.inventory()
    addresses = {SERVICE: service.url, CLUSTER: clean_cluster.url}
    outcomes = run_steps(steps, tmp_path, env=plain_environment(), addresses=addresses)
    assert faults(steps, outcomes) == []
    assert len(outcomes) == len(steps)
    assert clean_cluster.inventory() == before
