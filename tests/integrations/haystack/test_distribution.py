"""The distribution: a namespace package, what its wheel holds, and what importing it loads."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import haystack_integrations.components.rankers.qwen_rerank as package
import pytest

import qwen_rerank_plugins
from tests.laws.sources import ROOT, plain_environment, run_fresh

HERE = ROOT / "integrations" / "haystack"
MODULE = "haystack_integrations/components/rankers/qwen_rerank/"
README = (HERE / "README.md").read_text(encoding="utf-8")
TORCH_STACK = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without a network: the build backend is one of the test tools."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(command, cwd=HERE, env=plain_environment(), check=True, capture_output=True)
    return zipfile.ZipFile(next(target.glob("*.whl")))


def info_of(wheel: zipfile.ZipFile) -> str:
    return f"qwen_rerank_haystack-{package.__version__}.dist-info/"


def test_the_wheel_holds_the_package_its_types_and_its_licence(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if not name.startswith(info_of(wheel))}
    sources = [path for path in (HERE / MODULE).iterdir() if path.suffix == ".py" or path.name == "py.typed"]
    assert shipped == {MODULE + path.name for path in sources}
    assert MODULE + "py.typed" in shipped
    assert info_of(wheel) + "licenses/LICENSE" in wheel.namelist()


def test_the_wheel_has_no_init_above_the_package(wheel: zipfile.ZipFile) -> None:
    """One there would hide every other integration of the namespace."""
    folders = [MODULE.rsplit("/", depth)[0] for depth in (2, 3, 4)]
    assert folders[-1] == "haystack_integrations"
    stray = {f"{folder}/__init__.py" for folder in folders}
    assert stray & set(wheel.namelist()) == set()
    assert not any((HERE / name).exists() for name in stray)


def test_the_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(wheel.read(info_of(wheel) + "METADATA").decode())
    assert metadata["Name"] == "qwen-rerank-haystack"
    assert metadata["License-Expression"] == "Apache-2.0"
    required = metadata.get_all("Requires-Dist") or []
    base = sorted(re.split(r"[<>=!]", line)[0] for line in required if "extra ==" not in line)
    assert base == ["haystack-ai", "qwen-rerank-plugins"]
    assert metadata.get_all("Provides-Extra") == ["local"]


def test_the_versions_are_the_base_packages() -> None:
    assert package.__version__ == version("qwen-rerank-haystack") == qwen_rerank_plugins.__version__


def test_the_public_names_are_these() -> None:
    assert package.__all__ == ["QwenReranker", "__version__"]
    assert all(hasattr(package, name) for name in package.__all__)


def test_it_uses_only_public_modules_of_the_base_package() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (HERE / MODULE).glob("*.py")]
    imported = set(re.findall(r"from (qwen_rerank_plugins[\w.]*) import", "\n".join(sources)))
    assert imported == {"qwen_rerank_plugins", "qwen_rerank_plugins.wrapping"}


def test_a_remote_user_loads_no_torch() -> None:
    """Importing the package, warming up a remote ranker and failing to reach its service need no torch."""
    code = f"""
import os, sys
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TORCH_STACK!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from haystack import Document
from haystack_integrations.components.rankers.qwen_rerank import QwenReranker
documents = [Document(content=text) for text in ("a fox", "a whale")]
found = QwenReranker(backend="lexical").run(query="whale", documents=documents)["documents"]
assert found[0].content == "a whale"
remote = QwenReranker(backend="remote", base_url="http://127.0.0.1:9", retries=0, on_error="keep_order")
remote.warm_up()
assert remote.run(query="whale", documents=documents)["documents"][0].meta["rerank_status"] == "failed"
remote.close()
assert not {set(TORCH_STACK)!r} & set(sys.modules), sys.modules.keys()
try:
    QwenReranker(model="demo").warm_up()
except ImportError as error:
    print(error)
"""
    ran = run_fresh(code)
    assert ran.returncode == 0, ran.stderr
    assert "pip install 'qwen-rerank-plugins[local]'" in ran.stdout


def test_every_test_that_the_readme_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", README)
    assert len(named) > 20
    missing = [
        (module, name)
        for module, name in named
        if f"def {name}(" not in (Path(__file__).parent / module).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_each_line_of_the_feature_table_names_a_test() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| **")]
    assert len(rows) >= 20
    assert [row for row in rows if not re.search(r"`test_\w+\.py::test_\w+`", row)] == []


def test_the_pipeline_of_the_readme_is_read() -> None:
    (written,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    from haystack import Pipeline

    ranker = Pipeline.loads(written).get_component("ranker")
    assert isinstance(ranker, package.QwenReranker)
    assert ranker.config.backend == "remote"
