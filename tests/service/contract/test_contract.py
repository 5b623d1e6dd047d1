"""The service follows its OpenAPI description: Schemathesis, with all of its checks.

Thousands of generated requests, valid and invalid: valid ones must be served, invalid ones refused, every answer must have
a documented status, type and form, and none may be a server error.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qwen_rerank_plugins import RerankConfig
from qwen_rerank_plugins.service.api.routes import endpoints
from qwen_rerank_plugins.service.settings import ServiceSettings
from tests.laws.sources import ROOT, plain_environment
from tests.service.contract.hooks import belongs_together
from tests.service.servers import running_service

KEY = "a-key-of-the-contract"
HOOKS = {"SCHEMATHESIS_HOOKS": "tests.service.contract.hooks", "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
EXAMPLES, LONG_EXAMPLES = 10, 400


def other_spellings() -> list[str]:
    """Addresses that rank with the handler and the description of an earlier one."""
    seen = set()
    found = []
    for endpoint in endpoints(ServiceSettings()):
        if endpoint.ranking in seen:
            found.append(endpoint.path)
        elif endpoint.ranking is not None:
            seen.add(endpoint.ranking)
    return found


@pytest.mark.loopback
@pytest.mark.timeout(3600)
def test_the_service_keeps_its_openapi_description(
    tmp_path: Path, long_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All addresses in the long run; else one of those that share a handler and a description."""
    left_out = [] if long_run else other_spellings()
    assert "/rerank" not in left_out
    monkeypatch.setenv("CONTRACT_KEYS", KEY)
    with running_service(RerankConfig(backend="lexical"), api_keys_env="CONTRACT_KEYS") as running:
        ran = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "st"), "run", f"{running.base_url}/openapi.json"),
                *("--header", f"Authorization: Bearer {KEY}", "--checks", "all", "--mode", "all"),
                *("--phases", "examples,coverage,fuzzing", "--seed", "20261122"),
                *("--exclude-path", "/api/read-file"),  # takes files: tests/service/jobs/test_contract.py
                *(part for path in left_out for part in ("--exclude-path", path)),
                *("--max-examples", str(LONG_EXAMPLES if long_run else EXAMPLES)),
            ],
            cwd=tmp_path,
            env=plain_environment() | HOOKS,
            capture_output=True,
            check=False,
            text=True,
        )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert "No issues found" in ran.stdout


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ({"queries": ["a", "b"], "documents": [["x"], ["y"]]}, True),
        ({"queries": ["a"], "documents": [["x"], ["y"]]}, False),
        ({"queries": ["a"], "documents": ["x", "y"]}, True),
        ({"queries": ["a", "b"], "documents": ["x"]}, False),
        ({"text_1": ["a", "b"], "text_2": ["x", "y"]}, True),
        ({"text_1": ["a", "b"], "text_2": "x"}, False),
        ({"text_1": "a", "text_2": ["x", "y"]}, True),
        ({"query": "a", "documents": ["x", "y"]}, True),
        ([], True),
    ],
)
def test_the_one_rule_that_the_description_cannot_hold_is_no_wider_than_it_must_be(
    body: object, right: bool
) -> None:
    assert belongs_together(body) is right
