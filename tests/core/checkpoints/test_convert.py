"""Conversion: any checkpoint becomes a folder that transformers loads, with the same scores; a failure leaves no folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.checkpoints import convert as convert_module
from qwen_rerank_plugins.core.checkpoints.checkpoint import Checkpoint, open_checkpoint
from qwen_rerank_plugins.core.checkpoints.convert import convert_checkpoint
from qwen_rerank_plugins.core.checkpoints.tensors import read_tensor
from qwen_rerank_plugins.core.checkpoints.weights import load_weights
from qwen_rerank_plugins.core.engine.engine import reference_log_odds
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.int8 import linear_converter
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import CheckpointFormatError, ConfigurationError
from qwen_rerank_plugins.types import ScoreRequest
from tests.core.gguf_files import write_gguf, write_recipe
from tests.core.oracle import OfficialModel
from tests.core.peft_adapters import make_adapter
from tests.core.quantized_files import compressed, gptq, write_quantized
from tests.core.texts import NASTY
from tests.core.tiny_checkpoints import Shape, make, with_demo_tokenizer, write_sharded
from tests.core.tolerances import assert_close

CPU = torch.device("cpu")
ANSWERS = (20, 21)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6]]
UNTIED = Shape(is_tied=False)


def _adapter(folder: Path, **options: Any) -> Checkpoint:
    adapter = make_adapter(make(folder / "base", Shape()), folder / "adapter", **options)
    return open_checkpoint(str(adapter))


def _gguf(folder: Path, kind: str, answers: tuple[int, int] | None = None) -> Checkpoint:
    write_gguf(folder / "model.gguf", kind=kind, answers=answers)
    return open_checkpoint(str(folder / "model.gguf"))


def _quantized(folder: Path, form: Any) -> Checkpoint:
    write_quantized(folder, *form)
    return open_checkpoint(str(folder))


def _sharded(folder: Path) -> Checkpoint:
    return open_checkpoint(str(write_sharded(folder, UNTIED.config, UNTIED.tensors())))


def w8a8() -> Any:
    return compressed("int-quantized", num_bits=8, strategy="channel")


SOURCES: dict[str, Callable[[Path], Checkpoint]] = {
    "tied": lambda folder: open_checkpoint(str(make(folder, Shape()))),
    "sharded": _sharded,
    "qwen2": lambda folder: open_checkpoint(str(make(folder, Shape(model_type="qwen2", head_dim=12)))),
    "classifier": lambda folder: open_checkpoint(str(make(folder, Shape(has_classifier=True)))),
    "adapter": _adapter,
    "adapter-unties": lambda folder: _adapter(folder, modules_to_save=["lm_head"]),
    "adapter-classifies": lambda folder: _adapter(folder, task="SEQ_CLS"),
    "gguf": lambda folder: _gguf(folder, "Q8_0"),
    "gguf-rank": lambda folder: _gguf(folder, "Q4_K", ANSWERS),
    "gptq": lambda folder: _quantized(folder, gptq(desc_act=True)),
    "compressed-tensors": lambda folder: _quantized(folder, w8a8()),
}


def log_odds(checkpoint: Checkpoint, quantization: str = "none") -> list[float]:
    shape = checkpoint.architecture
    convert = linear_converter(quantization, CPU, torch.float32, shape.linear_shapes)
    weights = load_weights(checkpoint, ANSWERS, CPU, torch.float32, convert)
    return reference_log_odds(Decoder(shape, weights), [Segment.after(None, tuple(ids)) for ids in PROMPTS])


@pytest.mark.parametrize("name", SOURCES)
def test_transformers_scores_the_result_as_this_package_scores_the_source(tmp_path: Path, name: str) -> None:
    source = SOURCES[name](tmp_path / "in")
    report = convert_checkpoint(source, tmp_path / "out", dtype="float32")
    official = OfficialModel(tmp_path / "out", has_classifier=source.has_classifier)
    assert_close(log_odds(source), official.log_odds(PROMPTS, ANSWERS))
    converted = open_checkpoint(str(tmp_path / "out"))
    assert log_odds(converted) == log_odds(source)
    assert (converted.weight_format, converted.adapters) == ("safetensors", ())
    assert (converted.has_classifier, converted.is_tied) == (source.has_classifier, source.is_tied)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert report.num_bytes == sum(tensor.nbytes for tensor in stored.values())


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["tied", "gptq", "adapter"])
def test_each_number_is_rounded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str | None
) -> None:
    """The default is the dtype of the source's configuration: here fp32, and bf16 for the quantised checkpoint."""
    if name != "adapter":  # the last bit of a product may depend on the number of rows
        monkeypatch.setattr(convert_module, "READ_BLOCK_BYTES", 1000)
    source = SOURCES[name](tmp_path / "in")
    report = convert_checkpoint(source, tmp_path / "out", dtype=dtype)
    dtype = dtype or ("bfloat16" if name == "gptq" else "float32")
    assert report.number_format == dtype
    tensors, wanted = load_file(tmp_path / "out" / "model.safetensors"), source.open_tensors()
    for key, tensor in tensors.items():
        assert tensor.dtype is getattr(torch, dtype)
        exact = read_tensor(wanted, key, torch.float32, CPU)
        assert torch.equal(tensor, exact.to(tensor.dtype)), key
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_a_large_model_has_several_files(tmp_path: Path) -> None:
    source = SOURCES["sharded"](tmp_path / "in")
    steps: list[tuple[int, int]] = []
    report = convert_checkpoint(
        source, tmp_path / "out", max_file_bytes=40_000, on_progress=lambda *step: steps.append(step)
    )
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)
    ]
    assert (len(files), report.num_files) == (9, 9)
    assert max(file.stat().st_size for file in files) < 44_000
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == report.num_bytes == steps[-1][0] == steps[-1][1]
    assert steps == sorted(steps)
    official = OfficialModel(tmp_path / "out")
    assert_close(log_odds(open_checkpoint(str(tmp_path / "out"))), official.log_odds(PROMPTS, ANSWERS))


# ------------------------------------------------------------------------------------------------ int8


@pytest.mark.parametrize("name", ["tied", "classifier", "gptq", "gguf", "compressed-tensors"])
def test_int8_scores_as_quantising_at_loading_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Bit for bit: the codes and scales are the same, those that the checkpoint has included."""
    monkeypatch.setattr(convert_module, "READ_BLOCK_BYTES", 1000)
    source = SOURCES[name](tmp_path / "in")
    convert_checkpoint(source, tmp_path / "out", dtype="float32", quantization="int8")
    converted = open_checkpoint(str(tmp_path / "out"))
    assert converted.weight_format == "compressed-tensors int8"
    assert log_odds(converted, "int8") == log_odds(source, "int8")


def test_int8_is_read_by_compressed_tensors_as_it_is_here(tmp_path: Path) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    convert_checkpoint(SOURCES["sharded"](tmp_path / "in"), tmp_path / "out", quantization="int8")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    scheme = QuantizationConfig(**config["quantization_config"]).config_groups["group_0"]
    compressor: Any = BaseCompressor.get_value_from_registry("int-quantized")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    source = open_checkpoint(str(tmp_path / "out")).open_tensors()
    names = [name for name in stored if name.endswith("_proj.weight")]
    for name in names:
        parts = {"weight": stored[name], "weight_scale": stored[f"{name}_scale"]}
        wanted = compressor.decompress(parts, scheme)["weight"]
        assert torch.equal(read_tensor(source, name, torch.float32, CPU), wanted), name
    assert len(names) == 7 * UNTIED.num_layers


@pytest.mark.parametrize("name", ["tied", "classifier"])
def test_int8_is_loaded_by_transformers(tmp_path: Path, name: str) -> None:
    """Its activations are rounded to 8 bits per token, so that log-odds differ by that rounding."""
    source = SOURCES[name](tmp_path / "in")
    convert_checkpoint(source, tmp_path / "out", quantization="int8")
    official = OfficialModel(tmp_path / "out", has_classifier=source.has_classifier)
    found = official.log_odds(PROMPTS, ANSWERS)
    assert_close(found, log_odds(source), 0.1)
    assert found != log_odds(source)


# ------------------------------------------------------------------------------------ what is beside them


def test_a_gguf_file_becomes_a_model_from_text_to_score(tmp_path: Path) -> None:
    """With its tokenizer, also for transformers, and the record of its vocabulary."""
    from transformers import AutoTokenizer

    source = _gguf(tmp_path / "in", "Q8_0")
    write_recipe(tmp_path / "in", PromptTokenizer(source.tokenizer_json or ""))
    for name in ("config.json", "vocab.json", "generation_config.json"):
        (tmp_path / "in" / name).write_text("{}")  # of something else
    convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out" / "vocab.json").exists()
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = PromptTokenizer.from_folder(tmp_path / "out")
    assert theirs(NASTY)["input_ids"] == [list(ids) for ids in ours.encode(NASTY)]
    assert (theirs.pad_token, theirs.padding_side) == ("<|endoftext|>", "left")
    scores = []
    for model in (tmp_path / "in" / "model.gguf", tmp_path / "out"):
        scorer = LocalScorer.from_config(RerankConfig(model=str(model), device="cpu", dtype="float32"))
        scores.append(
            [score.log_odds for score in scorer.score([ScoreRequest("q", "d"), ScoreRequest("q", "e")])]
        )
        scorer.close()
    assert scores[0] == scores[1]


def test_the_tokenizer_and_the_records_of_a_fine_tune_are_kept(tmp_path: Path) -> None:
    adapter = make_adapter(with_demo_tokenizer(make(tmp_path / "base", Shape())), tmp_path / "adapter")
    (adapter / "1_LogitScore").mkdir()
    (adapter / "1_LogitScore" / "config.json").write_text('{"true_token_id": 20, "false_token_id": 21}')
    source = open_checkpoint(str(adapter))
    convert_checkpoint(source, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "rerank_recipe.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
    assert open_checkpoint(str(tmp_path / "out")).trained_answers() == source.trained_answers() == [ANSWERS]


def test_settings_of_the_source_are_kept_and_those_of_its_form_are_not(tmp_path: Path) -> None:
    settings, quantize = gptq()
    write_quantized(tmp_path / "in", settings, quantize, UNTIED)
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    more = {
        "rope_theta": 5e5,
        "torch_dtype": "bfloat16",
        "auto_map": {"AutoModel": "code.Model"},
        "bos_token_id": None,
    }
    (tmp_path / "in" / "config.json").write_text(json.dumps(config | more))
    convert_checkpoint(open_checkpoint(str(tmp_path / "in")), tmp_path / "out")
    del config["quantization_config"]
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config | {
        "rope_theta": 5e5,
        "bos_token_id": None,
    }


def test_the_card_says_what_was_done_and_nothing_of_the_machine(tmp_path: Path) -> None:
    source = _adapter(tmp_path)
    convert_checkpoint(source, tmp_path / "merged", dtype="bfloat16", quantization="int8")
    card = (tmp_path / "merged" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# merged\n" in card
    assert "Read `adapter`, stored as safetensors" in card
    assert "Merged the adapter `adapter`, trained on `base`, with the weight 1." in card
    assert "bytes of tensors as bfloat16, int8" in card
    assert f"torch {torch.__version__.partition('+')[0]}" in card
    assert str(tmp_path) not in card


# -------------------------------------------------------------------------------------------- or nothing


@pytest.mark.parametrize("kind", ["working folder", "mount point"])
def test_an_empty_folder_that_cannot_be_replaced_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The rename at the end failed: "Device or resource busy"."""
    source, out = SOURCES["tied"](tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    if kind == "working folder":
        monkeypatch.chdir(out)
    else:
        monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    monkeypatch.setattr(convert_module, "SafetensorsWriter", None)
    with pytest.raises(
        ConfigurationError, match="the working folder or a mount point, which cannot be replaced"
    ):
        convert_checkpoint(source, Path("." if kind == "working folder" else out))
    assert not any(out.iterdir())


def test_all_files_are_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = SOURCES["tied"](tmp_path / "in"), tmp_path / "out"
    flushed: list[tuple[str, bool]] = []
    monkeypatch.setattr(convert_module, "fsync_path", lambda path: flushed.append((path.name, out.exists())))
    convert_checkpoint(source, out)
    *first, folder, parent = flushed
    assert sorted(first) == sorted((path.name, False) for path in out.rglob("*"))
    assert folder[0].startswith(".out.")
    assert parent == (tmp_path.name, True)


@pytest.mark.parametrize("content", ["folder", "file"])
def test_what_exists_is_not_overwritten(tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    out.write_text("text") if content == "file" else (out / "more").mkdir(parents=True)
    source = SOURCES["tied"](tmp_path / "in")
    with pytest.raises(
        ConfigurationError, match="exists and is not an empty folder; name another one, or remove"
    ):
        convert_checkpoint(source, out)
    assert out.is_file() or [path.name for path in out.iterdir()] == ["more"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert_checkpoint(SOURCES["tied"](tmp_path / "in"), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no folder '.*/missing', in which to write"):
        convert_checkpoint(SOURCES["tied"](tmp_path / "in"), tmp_path / "missing" / "out")


@pytest.mark.parametrize("options", [{"dtype": "float8"}, {"dtype": "int8"}, {"quantization": "int4"}])
def test_other_formats_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written; use one of float32, bfloat16, float16"):
        convert_checkpoint(SOURCES["tied"](tmp_path / "in"), tmp_path / "out", **options)


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any) -> None:
        assert len(list(tmp_path.iterdir())) == 2  # the source, and what is being written
        raise error

    source = SOURCES["tied"](tmp_path / "in")
    monkeypatch.setattr(convert_module, "_write_json", fail)
    with pytest.raises(type(error)):
        convert_checkpoint(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(("value", "dtype"), [(1e6, "float16"), (float("nan"), "float32")])
def test_numbers_that_the_dtype_does_not_hold_are_refused(tmp_path: Path, value: float, dtype: str) -> None:
    source = SOURCES["tied"](tmp_path / "in")
    tensors = load_file(tmp_path / "in" / "model.safetensors")
    tensors["model.norm.weight"][7] = value
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    with pytest.raises(
        CheckpointFormatError, match=rf"model.norm.weight has weights that are not finite in {dtype}"
    ):
        convert_checkpoint(source, tmp_path / "out", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


_PEAK = """
import re, sys
from pathlib import Path
from qwen_rerank_plugins.core.checkpoints.checkpoint import open_checkpoint
from qwen_rerank_plugins.core.checkpoints.convert import convert_checkpoint
def status(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = status("VmRSS")
convert_checkpoint(open_checkpoint(sys.argv[1]), Path(sys.argv[2]), quantization="int8")
print(status("VmHWM") - before)
"""


def test_a_model_is_never_in_memory(tmp_path: Path) -> None:
    """A vocabulary and a layer of 250 MB, in half of that: some blocks of 32 MB, their pages among them."""
    shape = Shape(num_layers=1, hidden_size=1024, intermediate_size=8192, vocab_size=32_768)
    source = make(tmp_path / "in", shape)
    command = [sys.executable, "-c", _PEAK, str(source), str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    peak_mb = int(ran.stdout) / 1e3
    print(f"peak above the imports: {peak_mb:.0f} MB")
    assert (source / "model.safetensors").stat().st_size > 230e6
    assert peak_mb < 130
