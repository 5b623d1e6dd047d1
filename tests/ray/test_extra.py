"""Without the extra: the package can be imported, and the error names what is missing."""

from __future__ import annotations

import pytest

from tests.laws.sources import run_fresh


@pytest.mark.parametrize(
    ("missing", "name"), [("ray", "build_app"), ("ray", "rerank_file"), ("pyarrow", "rerank_dataset")]
)
def test_what_is_missing_is_named_with_the_line_that_installs_it(missing: str, name: str) -> None:
    ran = run_fresh(
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "import qwen_rerank_plugins.ray as package\n"
        "from qwen_rerank_plugins import MissingDependencyError\n"
        f"try:\n    package.{name}\n"
        "except MissingDependencyError as error:\n    print(error)\n"
    )
    assert ran.returncode == 0, ran.stderr
    line = "pip install 'qwen-rerank-plugins[ray]'"
    assert ran.stdout.strip() == f"qwen_rerank_plugins.ray.{name} needs {missing!r}: {line}"


def test_importing_the_package_loads_no_ray() -> None:
    ran = run_fresh(
        "import sys\nimport qwen_rerank_plugins.ray as package\nprint('ray' in sys.modules, dir(package))"
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("False")
    assert "build_app" in ran.stdout


def test_an_unknown_name_is_none_of_ours() -> None:
    import qwen_rerank_plugins.ray as package

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing
