"""The distribution: a namespace package, what its wheel holds, and what importing it loads."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import llama_index.postprocessor.qwen_rerank as package
import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor

import qwen_rerank_plugins
from tests.laws.sources import ROOT, plain_environment, run_fresh, tracked_files

HERE = ROOT / "integrations" / "llama_index"
MODULE = "llama_index/postprocessor/qwen_rerank/"
TORCH_STACK = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without a network: the build backend is one of the test tools."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(command, cwd=HERE, env=plain_environment(), check=True, capture_output=True)
    return zipfile.ZipFile(next(target.glob("*.whl")))


def info_of(wheel: zipfile.ZipFile) -> str:
    return f"llama_index_postprocessor_qwen_rerank-{package.__version__}.dist-info/"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if not name.startswith(info_of(wheel))}
    prefix = "integrations/llama_index/"
    assert shipped == {
        name.removeprefix(prefix) for name in tracked_files() if name.startswith(prefix + "llama_index/")
    }
    assert MODULE + "py.typed" in shipped
    assert info_of(wheel) + "licenses/LICENSE" in wheel.namelist()


def test_the_wheel_has_no_init_above_the_package(wheel: zipfile.ZipFile) -> None:
    """One there would hide llama_index.core from every other distribution of the namespace."""
    stray = {"llama_index/__init__.py", "llama_index/postprocessor/__init__.py"}
    assert stray & set(wheel.namelist()) == set()
    assert not any((HERE / name).exists() for name in stray)
    assert all(name.startswith((MODULE, info_of(wheel))) for name in wheel.namelist())


def test_the_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(wheel.read(info_of(wheel) + "METADATA").decode())
    assert metadata["Name"] == "llama-index-postprocessor-qwen-rerank"
    assert metadata["License-Expression"] == "Apache-2.0"
    required = metadata.get_all("Requires-Dist") or []
    base = sorted(line for line in required if "extra ==" not in line)
    assert base == ["llama-index-core<0.15,>=0.13", "qwen-rerank-plugins<0.2,>=0.1"]
    assert metadata.get_all("Provides-Extra") == ["local"]


def test_the_hub_of_llama_index_can_list_it() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
    hub = project["tool"]["llamahub"]
    module = importlib.import_module(hub["import_path"])
    assert module is package
    for name in hub["class_authors"]:
        assert issubclass(getattr(module, name), BaseNodePostprocessor)


def test_the_versions_are_the_base_packages() -> None:
    assert (
        package.__version__
        == version("llama-index-postprocessor-qwen-rerank")
        == qwen_rerank_plugins.__version__
    )


def test_the_public_names_are_these() -> None:
    assert package.__all__ == ["InstructedQuery", "QwenRerank", "RerankedNode", "__version__"]
    assert all(hasattr(package, name) for name in package.__all__)


def test_it_uses_only_public_modules_of_the_base_package() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (HERE / MODULE).glob("*.py")]
    assert sources
    assert [
        text for text in sources if "qwen_rerank_plugins._" in text or "qwen_rerank_plugins.core" in text
    ] == []


def test_a_remote_user_loads_no_torch() -> None:
    """Importing the package, building a remote postprocessor and failing to reach its service need no torch."""
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TORCH_STACK!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.qwen_rerank import QwenRerank
nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("a fox", "a whale")]
assert QwenRerank(backend="lexical").postprocess_nodes(nodes, query_str="whale")[0].text == "a whale"
remote = QwenRerank(backend="remote", base_url="http://127.0.0.1:9", retries=0, on_error="keep_order")
assert remote.postprocess_nodes(nodes, query_str="whale")[0].rerank_status == "failed"
remote.close()
assert not {set(TORCH_STACK)!r} & set(sys.modules), sys.modules.keys()
try:
    QwenRerank(model="demo").postprocess_nodes(nodes, query_str="whale")
except ImportError as error:
    print(error)
"""
    ran = run_fresh(code)
    assert ran.returncode == 0, ran.stderr
    assert "pip install 'qwen-rerank-plugins[local]'" in ran.stdout


def test_the_package_tells_its_types() -> None:
    assert (Path(package.__file__).parent / "py.typed").exists()


def test_every_test_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (HERE / "README.md").read_text(encoding="utf-8")))
    sources = [*Path(__file__).parent.glob("test_*.py"), HERE / MODULE / "testing.py"]
    defined = {
        name for path in sources for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert named - defined == set()
