"""The modules that importing it loads, the entries of the framework's hub, and the claims of its README about tests."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import llama_index.postprocessor.qwen_rerank as package
from llama_index.core.postprocessor.types import BaseNodePostprocessor

from tests.laws.sources import ROOT, run_fresh

HERE = ROOT / "integrations" / "llama_index"
MODULE = "llama_index/postprocessor/qwen_rerank/"
TORCH_STACK = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")


def test_the_hub_of_llama_index_can_list_it() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
    hub = project["tool"]["llamahub"]
    module = importlib.import_module(hub["import_path"])
    assert module is package
    for name in hub["class_authors"]:
        assert issubclass(getattr(module, name), BaseNodePostprocessor)


def test_the_public_names_are_these() -> None:
    assert package.__all__ == ["InstructedQuery", "QwenRerank", "RerankedNode", "__version__"]
    assert all(hasattr(package, name) for name in package.__all__)


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


def test_every_test_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (HERE / "README.md").read_text(encoding="utf-8")))
    sources = [*Path(__file__).parent.glob("test_*.py"), HERE / MODULE / "testing.py"]
    defined = {
        name for path in sources for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert named - defined == set()
