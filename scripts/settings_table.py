"""Write the tables in docs/ that are made from the code: settings and HTTP errors.

python scripts/settings_table.py            # write the tables
python scripts/settings_table.py --check    # fail if a table is out of date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.service.errors import STATUSES
from qwen_rerank_plugins.service.settings import ServiceSettings

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN = "<!-- table: written by scripts/settings_table.py -->"
END = "<!-- end of table -->"
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def settings_table() -> str:
    """Return the table of the reranker's settings."""
    return table_of(RerankConfig)


def service_table() -> str:
    """Return the table of the service's settings."""
    return table_of(ServiceSettings)


def table_of(model: type[BaseModel]) -> str:
    """Return a table with one row per setting, in the order of declaration."""
    head = ("setting", "values", "default", "meaning")
    return table_of_rows([head, *((f"`{name}`", *others) for name, *others in rows_of(model))])


def rows_of(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, values, default and meaning of each setting, in the order of declaration."""
    schema = model.model_json_schema()
    for name, one in schema["properties"].items():
        default = model.model_fields[name].get_default(call_default_factory=True)
        yield name, values_of(one), shown(default), str(one.get("description", ""))


def table_of_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is its head."""
    head, *others = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in (head, " | ".join(["---"] * len(rows[0])), *others))


def values_of(schema: Mapping[str, Any]) -> str:
    """Describe the values of a setting from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(values_of(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    names = {"string": "text", "boolean": "true, false", "null": "none", "object": "section", "array": "list"}
    kind = names.get(schema.get("type", ""), schema.get("type", "any"))
    limits = [f"{sign} {schema[key]:g}" for key, sign in LIMITS.items() if key in schema]
    return " ".join([kind, *limits])


def shown(default: Any) -> str:
    """Format a default as in YAML."""
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "empty" if default in ({}, ()) else f"`{default}`"


def errors_table() -> str:
    """Return the table of the service's error answers; each row has the anchor of its `type`."""
    rows = [("status", "`code`", "when", "what to do")]
    rows += [
        (f'<a id="{one.anchor}"></a>{status}', f"`{one.code}`", one.meaning, one.remedy)
        for status, one in STATUSES.items()
    ]
    return table_of_rows(rows)


def with_table(text: str, table: str) -> str:
    """Return the document with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def without_settings(text: str) -> str:
    """Return a document of the site without its table of settings, which has a page of its own there."""
    return re.sub(f"{BEGIN}\n\n\\| setting .*?{END}", "", text, flags=re.DOTALL)


def main(arguments: list[str]) -> int:
    """Write the tables, or with `--check` return 1 if one is out of date."""
    outdated = 0
    tables = {
        "configuration.md": settings_table(),
        "operations.md": service_table(),
        "errors.md": errors_table(),
    }
    for name, table in tables.items():
        document = DOCS / name
        written = document.read_text(encoding="utf-8")
        wanted = with_table(written, table)
        if arguments != ["--check"]:
            document.write_text(wanted, encoding="utf-8")
        elif written != wanted:
            outdated += 1
            print(f"docs/{name} is out of date: run python scripts/settings_table.py", file=sys.stderr)
    return min(outdated, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
