"""Loading: the right family for the checkpoint; one load per process, released with the last reference."""

from __future__ import annotations

import gc
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core import runtime as module
from qwen_rerank_plugins.core.engine import devices
from qwen_rerank_plugins.core.engine.devices import choose_dtype, default_batch_tokens, resolve_devices
from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.core.runtime import Runtime, acquire_runtime, load_runtime, release_runtime
from qwen_rerank_plugins.errors import (
    CheckpointFormatError,
    ClosedError,
    ConfigurationError,
    FamilyMismatchError,
    TensorMismatchError,
)
from qwen_rerank_plugins.types import ScoreRequest
from tests.core.gguf_files import SHAPE as GGUF_SHAPE
from tests.core.gguf_files import write_gguf
from tests.core.peft_adapters import make_adapter
from tests.core.qwen_vocabulary import write_qwen_tokenizer
from tests.core.tiny_checkpoints import Shape, make, with_demo_tokenizer, write_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
DEMO_IDS = 10_000


def settings(model: Path | str, **changes: Any) -> RerankConfig:
    return RerankConfig(model=str(model), device="cpu", **changes)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A random checkpoint with the demo's tokenizer."""
    return with_demo_tokenizer(make(tmp_path / "tiny", Shape(vocab_size=DEMO_IDS)))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Runtime]]:
    """Every runtime that is loaded; closed at the end."""
    seen: list[Runtime] = []

    def counted(config: RerankConfig) -> Runtime:
        runtime = load_runtime(config)
        seen.append(runtime)
        return runtime

    monkeypatch.setattr(module, "load_runtime", counted)
    yield seen
    for runtime in seen:
        runtime.close()


# -------------------------------------------------------------------------------------------- families


def test_the_checkpoints_own_family_is_taken(tiny: Path) -> None:
    runtime = load_runtime(settings(tiny))
    assert runtime.family.name == "qwen3"
    runtime.close()


@pytest.mark.parametrize(
    ("shape", "family"),
    [
        (Shape("qwen2", head_dim=12), "mxbai"),
        (Shape("zeroentropy"), "zerank"),
        (Shape(), "qwen3"),
        (Shape(has_classifier=True), "qwen3"),
    ],
    ids=["qwen2", "zeroentropy", "qwen3", "classifier"],
)
def test_without_a_record_the_model_type_says_which_family(
    tmp_path: Path, qwen: Any, monkeypatch: pytest.MonkeyPatch, shape: Shape, family: str
) -> None:
    """On Qwen's own vocabulary, whose ids are known."""
    monkeypatch.setattr(PromptTokenizer, "from_folder", lambda folder: qwen)
    big = Shape(**{**shape.__dict__, "vocab_size": 151_669})
    runtime = load_runtime(settings(make(tmp_path, big)))
    assert runtime.family.name == family
    runtime.close()


def test_a_family_for_another_architecture_is_refused(tiny: Path) -> None:
    with pytest.raises(FamilyMismatchError, match=r"'mxbai' is for qwen2 checkpoints, but .* is qwen3"):
        load_runtime(settings(tiny, family="mxbai"))


def test_a_classifier_has_no_single_logit(tmp_path: Path) -> None:
    folder = with_demo_tokenizer(make(tmp_path, Shape(vocab_size=DEMO_IDS, has_classifier=True)))
    with pytest.raises(FamilyMismatchError, match="needs the logits of a vocabulary"):
        load_runtime(settings(folder, family="zerank"))


@pytest.mark.parametrize("name", ["zerank-1-small-Q8_0.gguf", "model.gguf"])
def test_a_zerank_gguf_file_needs_its_family_named(
    name: str, tmp_path: Path, qwen: PromptTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model type is Qwen3's, whose family would return noise."""
    monkeypatch.setattr("qwen_rerank_plugins.core.runtime.PromptTokenizer", lambda _: qwen)
    metadata = {} if "zerank" in name else {"general.base_model.0.name": "Zerank 1 Small"}
    shape = replace(GGUF_SHAPE, vocab_size=151_669, num_layers=1)
    write_gguf(tmp_path / name, shape, changes=metadata)
    with pytest.raises(
        FamilyMismatchError, match=r"seems to be zerank, .*; set family to 'zerank', or to 'qwen3' if"
    ):
        load_runtime(settings(tmp_path / name, self_check=False))
    for family in ("zerank", "qwen3"):
        runtime = load_runtime(settings(tmp_path / name, self_check=False, family=family))
        assert runtime.family.name == family
        runtime.close()


def test_an_unknown_family_is_refused(tiny: Path) -> None:
    with pytest.raises(ConfigurationError, match="unknown prompt family 'none'"):
        load_runtime(settings(tiny, family="none"))


def test_another_vocabulary_without_a_record_is_refused(tiny: Path) -> None:
    (tiny / "rerank_recipe.json").unlink()
    with pytest.raises(FamilyMismatchError, match="does not fit this tokenizer"):
        load_runtime(settings(tiny))


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = with_demo_tokenizer(make(tmp_path, Shape(vocab_size=9_999)))
    with pytest.raises(TensorMismatchError, match="the tokenizer has 10000 ids, the embedding 9999 rows"):
        load_runtime(settings(folder))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFormatError, match="has no tokenizer"):
        load_runtime(settings(make(tmp_path, Shape())))


def test_a_folder_written_whole_loads(tmp_path: Path) -> None:
    """Qwen's own tokenizer files, as a published checkpoint has them."""
    write_qwen_tokenizer(tmp_path)
    runtime = load_runtime(settings(make(tmp_path, Shape(vocab_size=151_669)), self_check=False))
    assert runtime.info()["self_check"]["status"] == "skipped"
    runtime.close()


# ------------------------------------------------------------------------------------- devices, dtypes


def test_devices_are_resolved_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_devices(("auto",)) == resolve_devices(("cuda",)) == [CUDA]
    assert resolve_devices(("cuda:0", "cuda:1", "cpu")) == [CUDA, torch.device("cuda:1"), CPU]
    with pytest.raises(
        ConfigurationError, match="'cuda:2' does not exist on this machine, where torch sees 2 CUDA devices"
    ):
        resolve_devices(("cuda:2",))
    with pytest.raises(ConfigurationError, match="'cuda,cuda:0' names a device twice"):
        resolve_devices(("cuda", "cuda:0"))


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_devices(("auto",)) == [CPU]
    with pytest.raises(ConfigurationError, match="torch sees 0 CUDA devices"):
        load_runtime(RerankConfig(model="demo", device="cuda"))


@pytest.mark.parametrize(
    ("device", "stored", "hardware", "expected"),
    [
        (CPU, "bfloat16", True, torch.bfloat16),
        (CPU, "bfloat16", False, torch.float32),
        (CPU, "float32", True, torch.float32),
        (CPU, "float16", True, torch.float32),
        (CUDA, "bfloat16", True, torch.bfloat16),
        (CUDA, "float32", True, torch.bfloat16),
        (CUDA, "float16", True, torch.float16),
        (CUDA, "bfloat16", False, torch.float16),
    ],
)
def test_auto_is_16_bits_where_the_hardware_multiplies_them(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, stored: str, hardware: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(devices, "_cpu_multiplies_bf16", lambda: hardware)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation and hardware
    )
    assert choose_dtype("auto", device, stored) is expected


def test_fp16_is_not_for_cpus() -> None:
    assert choose_dtype("float16", CUDA, "float32") is torch.float16
    assert choose_dtype("bfloat16", CPU, "float32") is torch.bfloat16
    with pytest.raises(ConfigurationError, match="dtype 'float16' is not supported on a CPU"):
        choose_dtype("float16", CPU, "float16")


def test_batches_are_larger_on_a_gpu() -> None:
    assert default_batch_tokens(CPU) < default_batch_tokens(CUDA)


# ----------------------------------------------------------------------------------------- information


def test_the_loaded_model_is_reported_as_plain_json(tiny: Path) -> None:
    runtime = load_runtime(settings(tiny, dtype="float32", max_batch_tokens=777))
    info = runtime.info()
    runtime.close()
    assert json.loads(json.dumps(info)) == info
    assert (info["model"], info["family"], info["device"], info["dtype"]) == (
        str(tiny), "qwen3", "cpu", "float32",
    )  # fmt: skip
    assert info["max_batch_tokens"] == 777
    assert info["self_check"]["status"] == "passed"
    num_parameters = sum(tensor.numel() for tensor in Shape(vocab_size=DEMO_IDS).tensors().values())
    assert info["num_parameters"] == num_parameters
    assert info["weight_bytes"] == num_parameters * 4 + 48 * 4  # and the head's row


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "int8", "auto"])
def test_every_number_format_of_the_cpu_scores(tiny: Path, dtype: Any, quantization: Any) -> None:
    scorer = LocalScorer.from_config(settings(tiny, dtype=dtype, quantization=quantization))
    (score,) = scorer.score([ScoreRequest("q", "d")])
    assert 0 <= score.relevance_score <= 1
    assert scorer.info()["quantization"] in ({"none", "int8"} if quantization == "auto" else {quantization})
    scorer.close()


# --------------------------------------------------------------------------------------------- sharing


def test_many_threads_load_a_model_once(tiny: Path, loads: list[Runtime]) -> None:
    barrier = threading.Barrier(20)

    def acquire() -> Runtime:
        barrier.wait(30)
        return acquire_runtime(settings(tiny), shared=True)

    with ThreadPoolExecutor(20) as pool:
        got = [future.result() for future in [pool.submit(acquire) for _ in range(20)]]
    assert len(loads) == 1
    assert {id(runtime) for runtime in got} == {id(loads[0])}
    assert loads[0].num_references == 20
    for runtime in got:
        release_runtime(runtime)


def test_the_last_to_leave_closes_the_model(tiny: Path, loads: list[Runtime]) -> None:
    first, second = (LocalScorer.from_config(settings(tiny), shared=True) for _ in range(2))
    first.close()
    assert second.score([ScoreRequest("q", "d")])
    second.close()
    with pytest.raises(ClosedError):
        loads[0].scheduler.submit([]).result(5)
    third = LocalScorer.from_config(settings(tiny), shared=True)
    assert len(loads) == 2
    third.close()


def test_closing_twice_gives_back_once(tiny: Path, loads: list[Runtime]) -> None:
    first, second = (LocalScorer.from_config(settings(tiny), shared=True) for _ in range(2))
    first.close()
    first.close()
    assert second.score([ScoreRequest("q", "d")])
    second.close()


def test_a_scorer_that_is_dropped_gives_its_model_back(tiny: Path, loads: list[Runtime]) -> None:
    first, second = (LocalScorer.from_config(settings(tiny), shared=True) for _ in range(2))
    assert loads[0].num_references == 2
    del first
    gc.collect()
    assert loads[0].num_references == 1
    second.close()


def test_what_is_not_shared_is_ones_own(tiny: Path, loads: list[Runtime]) -> None:
    scorers = [LocalScorer.from_config(settings(tiny), shared=shared) for shared in (True, False, False)]
    assert len(loads) == 3
    for scorer in scorers:
        scorer.close()


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"top_n": 3}, True),
        ({"max_length": 100}, True),
        ({"instruction": "i"}, True),
        ({"dtype": "bfloat16"}, False),
        ({"quantization": "int8"}, False),
        ({"family": "qwen3"}, False),
        ({"hub": "modelscope"}, False),
        ({"max_batch_tokens": 100}, False),
        ({"prefix_cache_mb": 1}, False),
        ({"self_check": False}, False),
    ],
)
def test_settings_that_are_the_engines_separate_models(
    tiny: Path, loads: list[Runtime], change: dict[str, Any], is_same: bool
) -> None:
    base = settings(tiny)
    got = [acquire_runtime(config, shared=True) for config in (base, base.replace(**change))]
    assert (got[0] is got[1]) == is_same
    for runtime in got:
        release_runtime(runtime)


def test_adapters_separate_models_by_their_weights(
    tiny: Path, tmp_path: Path, loads: list[Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached score of one is never returned for another."""
    adapter = make_adapter(tiny, tmp_path / "adapter", target_modules=["q_proj"])
    monkeypatch.chdir(tmp_path)
    configs = [settings(tiny, adapters=text) for text in ((), (str(adapter),), "adapter", "adapter=0.5")]
    got = [acquire_runtime(config, shared=True) for config in configs]
    assert [runtime is got[1] for runtime in got] == [False, True, True, False]
    assert len({runtime.fingerprint for runtime in got}) == 3
    assert got[3].info()["adapters"] == [
        {"model": "adapter", "revision": None, "weight": 0.5, "base": str(tiny)}
    ]
    assert got[0].info()["adapters"] == []
    for runtime in got:
        release_runtime(runtime)


def test_a_folder_is_itself_by_any_path(
    tiny: Path, loads: list[Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    paths = (str(tiny), "./tiny", "tiny", f"{tiny}/../tiny")
    got = [acquire_runtime(settings(path), shared=True) for path in paths]
    assert len(loads) == 1
    for runtime in got:
        release_runtime(runtime)


def test_a_model_that_does_not_load_does_not_stop_those_that_wait(tiny: Path) -> None:
    write_config(tiny, {})

    def attempt(_: int) -> str:
        try:
            acquire_runtime(settings(tiny), shared=True)
        except CheckpointFormatError as error:
            return type(error).__name__
        return "loaded"

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(attempt, range(5))) == ["CheckpointFormatError"] * 5
    shutil.rmtree(tiny)
    with_demo_tokenizer(make(tiny, Shape(vocab_size=DEMO_IDS)))
    release_runtime(acquire_runtime(settings(tiny), shared=True))


def test_the_memory_decides_how_large_a_batch_is(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Engine, "warm_up", lambda engine, tokens: tokens // 2)
    runtime = load_runtime(settings(tiny, max_batch_tokens=600))
    runtime.close()
    assert runtime.max_batch_tokens == 300
    assert "a batch of 600 tokens does not fit the device's memory; max_batch_tokens is 300" in caplog.text
