"""The command `convert`: what it prints, what it writes, and that a signal leaves no files behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from qwen_rerank_plugins.cli.app import app
from qwen_rerank_plugins.core.checkpoints import convert as convert_module
from tests.core.peft_adapters import make_adapter
from tests.core.tiny_checkpoints import Shape, make, with_demo_tokenizer


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_demo_is_converted_and_ranks_as_before(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    result = _run("convert", "demo", out, "--quantization", "int8")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"safetensors -> float16, int8: 5.5 MB in 1 file of {out!r}\n"
    assert {tensor.dtype.itemsize for tensor in load_file(f"{out}/model.safetensors").values()} == {1, 2, 4}
    rank = ["rank", "blue whale", "--format", "json", "--dtype", "float32", "--quantization", "int8"]
    answers = [
        CliRunner().invoke(app, [*rank, "--model", model], input="a red fox\nthe blue whale sings\n").stdout
        for model in ("demo", out)
    ]
    assert answers[0].replace('"demo"', f'"{out}"') == answers[1]


def test_adapters_are_merged(tmp_path: Path) -> None:
    base = with_demo_tokenizer(make(tmp_path / "base", Shape()))
    adapters = [make_adapter(base, tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"))]
    out = tmp_path / "out"
    names = f"{adapters[0]},{adapters[1]}=0.5"
    result = _run("convert", str(base), str(out), "--adapters", names, "--dtype", "bfloat16")
    assert result.exit_code == 0
    card = (out / "README.md").read_text()
    assert "`one`, trained on `base`, with the weight 1." in card
    assert "`two`, trained on `base`, with the weight 0.5." in card


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["demo", "."], 2, "error: '.' exists and is not an empty folder"),
        (
            ["demo", "out", "--dtype", "int4"],
            2,
            "error: dtype 'int4' with quantization 'none' cannot be written",
        ),
        (["./missing", "out"], 1, "error: no such folder: './missing'"),
        (["demo"], 2, "Missing argument 'OUT'"),
    ],
)
def test_errors_are_one_line_and_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note").touch()
    result = _run("convert", *arguments)
    assert (result.exit_code, complaint in result.stderr) == (code, True), result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_sigterm_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminate(*_: Any) -> None:
        assert len(list(tmp_path.iterdir())) == 1
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(convert_module, "_write_json", terminate)
    assert _run("convert", "demo", str(tmp_path / "out")).exit_code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_help_teaches_with_examples() -> None:
    text = _run("convert", "--help").stdout
    assert "qwen-rerank convert model.Q8_0.gguf plain --dtype bfloat16" in text
    assert "an interrupted run leaves nothing" in " ".join(text.split())
