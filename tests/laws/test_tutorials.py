"""A tutorial runs from its first block to its last in one folder, and prints what the page says.

The page about OpenSearch needs a cluster: `tests/integrations/opensearch/live/test_tutorial.py` runs it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.tutorials import (
    CLUSTER,
    SERVICE,
    Outcome,
    Step,
    difference,
    faults,
    is_tutorial,
    run_steps,
    steps_of,
    with_outputs,
)
from tests.integrations.opensearch.nodes.services import running_rerank_service
from tests.laws.sources import ROOT, plain_environment, tracked_files

TEXTS = {
    page: (ROOT / page).read_text(encoding="utf-8")
    for page in tracked_files()
    if page.endswith(".md") and is_tutorial(page)
}
STEPS = {page: steps_of(page, text) for page, text in TEXTS.items()}


def names(address: str, page: str) -> bool:
    """Whether a block of the page calls the address."""
    return any(address in step.code for step in STEPS[page])


@pytest.mark.loopback
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [page for page in STEPS if STEPS[page] and not names(CLUSTER, page)])
def test_a_tutorial_prints_what_it_shows(page: str, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    if names(SERVICE, page):
        with running_rerank_service(tmp_path) as service:
            outcomes = run_steps(
                STEPS[page], folder, env=plain_environment(), addresses={SERVICE: service.url}
            )
    else:
        outcomes = run_steps(STEPS[page], folder, env=plain_environment())
    assert faults(STEPS[page], outcomes) == []


@pytest.mark.parametrize("page", TEXTS)
def test_an_output_follows_the_block_that_prints_it(page: str) -> None:
    """An output that no block is compared with would be unchecked."""
    assert TEXTS[page].count("```text output\n") == sum(step.expected is not None for step in STEPS[page])
    assert TEXTS[page].count(" run\n") == len(STEPS[page])


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("score: 0.93\n", "score: 0.94", True),
        ("score: 0.93\n", "score: 0.95", False),
        ("score: 0.93\n", "score: 0.9312", False),
        ("score: 0.123456789", "score: 0.12347", True),
        ("score: 0.123456789", "score: 0.12357", False),
        ("score: 0.123456789", "score: 0.123", False),
        ("-1.0", "1.0", False),
        ("0.9 a\n0.1 b", "0.9   a\n0.1 b\n\n", True),
        ("0.9 a", "0.9 b", False),
        ("3 rows", "4 rows", False),
        ("version 1.2.3", "version 1.2.4", False),
        ("done in … s", "done in 12.5 s", True),
        ("done in … s, 3 rows", "done in 12.5 s, 4 rows", False),
        ("…\nlast", "first\nsecond\nlast", True),
        ("", "anything", False),
    ],
)
def test_outputs_are_equal_up_to_the_last_digit_and_what_is_left_open(
    expected: str, printed: str, same: bool
) -> None:
    assert (difference(expected, printed) is None) is same


PAGE = """```python run
names = ["a"]
```

```bash run
echo one > file
echo two >&2
```

```text output
two
```

```python run
print(names, open("file").read().strip(), round(1 / 3, 2))
```

```text output
['a'] one 0.33
```
"""


def test_blocks_of_a_page_share_names_and_files(tmp_path: Path) -> None:
    steps = steps_of("p.md", PAGE)
    assert [step.place for step in steps] == ["p.md:2", "p.md:6", "p.md:15"]
    outcomes = run_steps(steps, tmp_path, env=plain_environment())
    assert [one.printed for one in outcomes] == ["", "two\n", "['a'] one 0.33\n"]
    assert len(faults(steps, outcomes)) == 0


def test_a_block_that_fails_ends_the_page_and_is_reported(tmp_path: Path) -> None:
    steps = [
        Step("p.md:1", "bash", "echo seen; false\n", None),
        Step("p.md:5", "python", "raise SystemError\n", None),
    ]
    outcomes = run_steps(steps, tmp_path, env=plain_environment())
    assert len(outcomes) == 1
    [fault] = faults(steps, outcomes)
    assert fault.startswith("p.md:1: failed")
    assert "seen" in fault


def test_an_address_of_the_page_is_replaced_in_the_code_and_back_in_the_output(tmp_path: Path) -> None:
    steps = [Step("p.md:1", "bash", f"echo {SERVICE}/x | tee seen\n", f"{SERVICE}/x\n")]
    outcomes = run_steps(
        steps, tmp_path, env=plain_environment(), addresses={SERVICE: "http://127.0.0.1:9999"}
    )
    assert faults(steps, outcomes) == []
    assert (tmp_path / "seen").read_text() == "http://127.0.0.1:9999/x\n"


def test_updating_a_page_writes_only_the_outputs_that_differ() -> None:
    outcomes = [Outcome("", 0.0), Outcome("three  \n", 0.0), Outcome("['a'] one 0.50", 0.0)]
    assert with_outputs(PAGE, outcomes) == PAGE.replace(
        "```text output\ntwo\n", "```text output\nthree\n"
    ).replace("0.33\n", "0.50\n")
