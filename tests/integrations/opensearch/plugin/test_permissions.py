"""The plugin has the permissions that it needs, and no others: those of its policy on version 2, none on version 3."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from tests.integrations.opensearch.conftest import BOOT_TIMEOUT_S, NATIVE_KEY
from tests.integrations.opensearch.nodes.cluster import running_cluster
from tests.integrations.opensearch.nodes.native_plugin import build_plugin
from tests.integrations.opensearch.plugin.conftest import Native, on_every_node
from tests.integrations.opensearch.plugin.test_build import POLICY

VERSION = "2.19.1"
GRANTED = re.compile(r'^  permission (\S+) "(.*)\*", "(.*)";$', re.MULTILINE)
DENIED = re.compile(r'access denied \("(\S+)" "(\w+:).*?" "(.*?)"\)')


@pytest.mark.loopback
@pytest.mark.timeout(BOOT_TIMEOUT_S)
def test_the_security_manager_denies_exactly_what_the_policy_grants(tmp_path: Path) -> None:
    """Without the policy, a request fails for each line of it, with that line's permission."""
    tmp_path.chmod(0o755)
    stripped = tmp_path / "stripped.zip"
    with zipfile.ZipFile(build_plugin(VERSION)) as archive, zipfile.ZipFile(stripped, "w") as copy:
        granted = GRANTED.findall(archive.read(POLICY).decode())
        for name in set(archive.namelist()) - {POLICY}:
            copy.writestr(name, archive.read(name))
    secrets = {"qwen_rerank.api_key": NATIVE_KEY}
    with running_cluster(
        VERSION, plugins=[stripped], secrets=secrets, core_only=True, heap="512m"
    ) as cluster:
        cluster.load("numbers", [{"text": "0.1 whales"}])
        native = Native(cluster)
        denied = []
        for _, scheme, _ in granted:
            endpoint = f"{scheme}//127.0.0.1:1"
            native.allow(endpoint)
            answer = native.search(native.pipeline(endpoint))
            denied += DENIED.findall(answer["ext"]["qwen_rerank"]["reason"])
    assert granted
    assert denied == granted


@on_every_node
def test_the_agent_of_version_3_is_active_where_it_is_published(native: Native) -> None:
    """The other tests show that the plugin needs no permission there."""
    node = native.cluster.node
    attached = "Policy attached successfully" in node.log.read_text(encoding="utf-8")
    assert attached == (node.version == "3.6.0")
