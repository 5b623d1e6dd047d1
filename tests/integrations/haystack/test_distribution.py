"""The modules that importing it loads, and the claims of its README about tests and pipelines."""

from __future__ import annotations

import re
from pathlib import Path

import haystack_integrations.components.rankers.qwen_rerank as package

from tests.laws.sources import ROOT, run_fresh

HERE = ROOT / "integrations" / "haystack"
README = (HERE / "README.md").read_text(encoding="utf-8")
TORCH_STACK = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")


def test_the_public_names_are_these() -> None:
    assert package.__all__ == ["QwenReranker", "__version__"]
    assert all(hasattr(package, name) for name in package.__all__)


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
