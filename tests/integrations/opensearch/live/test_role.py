"""The role for the security plugin names actions that exist, by the classes of the nodes' jars."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from tests.integrations.opensearch.conftest import BOOT_TIMEOUT_S
from tests.integrations.opensearch.nodes.assembly import home_of
from tests.integrations.opensearch.nodes.releases import RELEASES
from tests.laws.sources import ROOT

ROLE = ROOT / "integrations" / "opensearch" / "role.json"
ACTION = re.compile(rb"(?:cluster|indices):[\w/]+")


def actions_in(jar: Path) -> set[str]:
    """Return the names of actions among the constants of a jar's classes."""
    with zipfile.ZipFile(jar) as archive:
        classes = [archive.read(name) for name in archive.namelist() if name.endswith("Action.class")]
    return {found.decode() for one in classes for found in ACTION.findall(one)}


@pytest.mark.timeout(BOOT_TIMEOUT_S)
@pytest.mark.parametrize("version", RELEASES)
def test_every_action_of_the_role_exists(version: str) -> None:
    role = json.loads(ROLE.read_text(encoding="utf-8"))
    home = home_of(RELEASES[version])
    core = actions_in(home / "lib" / f"opensearch-{version}.jar")
    ml_commons = actions_in(home / "plugins" / "opensearch-ml" / f"opensearch-ml-common-{version}.0.jar")
    named = {*role["cluster_permissions"]}
    for indices in role["index_permissions"]:
        named |= {*indices["allowed_actions"]} - {"indices_all"}  # a group of the security plugin's own
    of_ml_commons = {name for name in named if "/ml/" in name}
    assert of_ml_commons <= ml_commons
    assert named - of_ml_commons <= core
    assert of_ml_commons
