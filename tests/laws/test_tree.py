"""What must not be in the repository, and what must be in the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import qwen_rerank_plugins
from tests.laws.sources import ROOT, plain_environment, tracked_files

MEGABYTE = 1_000_000
MAX_FILE_BYTES = MEGABYTE
MAX_DEMO_BYTES = 8 * MEGABYTE
DEMO = "qwen_rerank_plugins/demo/"
LOCK_FILES = {
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "pipfile.lock",
    "package-lock.json",
    "yarn.lock",
    "pylock.toml",
}
BINARY = (".safetensors", ".png", ".gz", ".parquet")

# Where packages come from is the business of the machine, not of the tree. (Written so as not to match itself.)
REGISTRY_HOSTS = re.compile(
    r"pypi[.]org|pythonhosted[.]org|download[.]pytorch|npmjs[.](org|com)|crates[.]io|repo1?[.]maven"
)
MACHINE_PATHS = re.compile(r"(?<![\w.~*}-])/(work|root|home|Users|mnt)/\w")


def text_files() -> list[str]:
    return [name for name in tracked_files() if not name.endswith(BINARY)]


def matches(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for name in text_files():
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    return found


def test_no_registry_is_named() -> None:
    assert matches(REGISTRY_HOSTS) == []


def test_no_path_of_a_machine_is_named() -> None:
    assert matches(MACHINE_PATHS) == []


def test_the_patterns_find_what_they_are_for() -> None:
    assert REGISTRY_HOSTS.search("https://pypi" + ".org/simple")
    assert MACHINE_PATHS.search('"' + "/home" + '/someone/models"')
    assert not MACHINE_PATHS.search("service" + "/work" + "/home")


def test_pins_stand_in_one_place() -> None:
    assert [name for name in tracked_files() if Path(name).name.lower() in LOCK_FILES] == []


def test_every_pin_is_exact_and_names_no_source() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.match(r"^[a-z0-9-]+==[\w.+]+( ; .+)?$", line)] == []
    assert {"torch", "transformers", "pytest", "ruff", "mypy", "uv"} <= {line.split("==")[0] for line in pins}


def test_no_file_is_large_but_the_demo_checkpoint() -> None:
    sizes = {name: (ROOT / name).stat().st_size for name in tracked_files()}
    large = {
        name: size for name, size in sizes.items() if size > MAX_FILE_BYTES and not name.startswith(DEMO)
    }
    assert large == {}
    assert sum(size for name, size in sizes.items() if name.startswith(DEMO)) <= MAX_DEMO_BYTES


def test_text_files_are_utf8_with_unix_lines_and_an_end() -> None:
    faulty = []
    written_by_hand = [name for name in text_files() if not name.startswith(DEMO + "checkpoint/")]
    for name in written_by_hand:
        content = (ROOT / name).read_bytes()
        if b"\r" in content or (content and not content.endswith(b"\n")):
            faulty.append(name)
    assert faulty == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without network: the build backend is a test requirement."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(command, cwd=ROOT, env=plain_environment(), check=True, capture_output=True)
    return zipfile.ZipFile(next(target.glob("*.whl")))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    info = f"qwen_rerank_plugins-{qwen_rerank_plugins.__version__}.dist-info/"
    shipped = {name for name in wheel.namelist() if not name.startswith(info)}
    assert shipped == {name for name in tracked_files() if name.startswith("qwen_rerank_plugins/")}
    assert info + "licenses/LICENSE" in wheel.namelist()


def test_the_wheel_holds_the_demo_checkpoint(wheel: zipfile.ZipFile) -> None:
    checkpoint = DEMO + "checkpoint/"
    shipped = {name.removeprefix(checkpoint) for name in wheel.namelist() if name.startswith(checkpoint)}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= shipped
    assert "qwen_rerank_plugins/py.typed" in wheel.namelist()


def test_the_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    info = f"qwen_rerank_plugins-{qwen_rerank_plugins.__version__}.dist-info/"
    metadata = Parser().parsestr(wheel.read(info + "METADATA").decode())
    required = metadata.get_all("Requires-Dist") or []
    base = sorted(re.split(r"[<>=!~;\[ ]", line)[0] for line in required if "extra ==" not in line)
    assert base == ["charset-normalizer", "httpx", "pydantic", "pyyaml", "rich", "tenacity", "typer"]
    extras = ["all", "batch", "eval", "gguf", "local", "modelscope", "otel", "ray", "server"]
    assert sorted(metadata.get_all("Provides-Extra") or []) == extras
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "qwen-rerank = qwen_rerank_plugins.cli.app:main" in wheel.read(info + "entry_points.txt").decode()
