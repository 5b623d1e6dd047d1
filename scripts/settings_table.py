"""Writes the table of settings in docs/configuration.md from the settings themselves.

python scripts/settings_table.py            # write it
python scripts/settings_table.py --check    # fail when it is not the one that would be written
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen_rerank_plugins.config import RerankConfig

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
BEGIN = "<!-- settings: written by scripts/settings_table.py -->"
END = "<!-- end of settings -->"
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def settings_table() -> str:
    """The table, one row a setting, in the order in which they are declared."""
    rows = ["| setting | values | default | meaning |", "| --- | --- | --- | --- |"]
    properties = RerankConfig.model_json_schema()["properties"]
    for name, schema in properties.items():
        default = RerankConfig.model_fields[name].get_default(call_default_factory=True)
        cells = (f"`{name}`", values_of(schema), shown(default), str(schema.get("description", "")))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def values_of(schema: Mapping[str, Any]) -> str:
    """What a setting may hold, in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(values_of(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    names = {"string": "text", "boolean": "true, false", "null": "none", "object": "section"}
    kind = names.get(schema.get("type", ""), schema.get("type", "any"))
    limits = [f"{sign} {schema[key]:g}" for key, sign in LIMITS.items() if key in schema]
    return " ".join([kind, *limits])


def shown(default: Any) -> str:
    """A default as one would write it in YAML."""
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "empty" if default == {} else f"`{default}`"


def with_table(text: str) -> str:
    """The document with its table written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{settings_table()}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write the table, or with `--check` say whether it is up to date."""
    written = DOCUMENT.read_text(encoding="utf-8")
    wanted = with_table(written)
    if arguments == ["--check"]:
        if written != wanted:
            print(
                "docs/configuration.md is out of date: run python scripts/settings_table.py", file=sys.stderr
            )
        return int(written != wanted)
    DOCUMENT.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
