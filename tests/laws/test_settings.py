"""Every setting is described where it is declared, and the documentation shows exactly what is declared."""

from __future__ import annotations

import pytest

from qwen_rerank_plugins.config import RerankConfig
from scripts import settings_table

FIELDS = RerankConfig.model_fields


def test_the_table_in_the_documentation_is_the_one_of_the_settings() -> None:
    assert settings_table.main(["--check"]) == 0


def test_an_outdated_table_is_seen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_table, "settings_table", lambda: "| another | table |")
    assert settings_table.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_setting_has_a_meaning_and_a_default(name: str) -> None:
    assert FIELDS[name].description
    assert not FIELDS[name].is_required()
    row = next(row for row in settings_table.settings_table().splitlines() if row.startswith(f"| `{name}` |"))
    assert all(cell.strip() for cell in row.strip("|").split(" | "))
