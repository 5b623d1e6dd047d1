"""The engine: prefixes cached within a budget, errors by type, and the self-check of the attention backend."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qwen_rerank_plugins.core.engine import self_check
from qwen_rerank_plugins.core.engine.devices import is_device_lost
from qwen_rerank_plugins.core.engine.engine import Engine, reference_log_odds, select_attention
from qwen_rerank_plugins.core.engine.prefix_cache import PrefixCache
from qwen_rerank_plugins.core.engine.self_check import run_self_check, tolerance
from qwen_rerank_plugins.core.model.attention import DenseAttention, ForestAttention, GroupedAttention
from qwen_rerank_plugins.core.model.decoder import Decoder, Plan
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import DeviceLostError, EngineError, EngineOutOfMemoryError
from tests.core.engines import decoder_of
from tests.core.forests import grid, prompt_lists
from tests.core.tiny_checkpoints import Shape, make
from tests.core.tolerances import assert_close

PROMPTS = grid(20, (6, 9), (4, 4, 7))
BYTES_PER_TOKEN = 3 * 2 * 32 * 4
"""Three layers' keys and values of two heads of 16 in fp32."""


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return decoder_of(make(tmp_path_factory.mktemp("tiny"), Shape()))


class Counting(Decoder):
    """A decoder that remembers how many rows each forward pass had."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder.architecture, decoder.weights)
        self.rows: list[int] = []

    def forward(self, plan: Plan) -> tuple[Tensor, list[Tensor]]:
        self.rows.append(plan.layout.forest.num_tokens)
        return super().forward(plan)


class Failing(Decoder):
    """A decoder whose forward pass raises."""

    def __init__(self, decoder: Decoder, error: Exception) -> None:
        super().__init__(decoder.architecture, decoder.weights)
        self.error: Exception | None = error

    def forward(self, plan: Plan) -> tuple[Tensor, list[Tensor]]:
        if self.error is not None:
            raise self.error
        return super().forward(plan)


# ---------------------------------------------------------------------------------------------- scores


def test_no_prompts_give_no_scores(decoder: Decoder) -> None:
    assert Engine(decoder).log_odds([]) == []


def test_the_scale_is_a_factor_of_the_log_odds(decoder: Decoder) -> None:
    plain, scaled = Engine(decoder).log_odds(PROMPTS), Engine(decoder, scale=0.2).log_odds(PROMPTS)
    assert_close(scaled, [0.2 * score for score in plain])
    assert_close(reference_log_odds(decoder, PROMPTS, 0.2), scaled)


@given(sequences=prompt_lists())
def test_any_forest_scores_as_each_prompt_by_itself(decoder: Decoder, sequences: list[Segment]) -> None:
    engine = Engine(decoder, prefix_cache_bytes=1 << 20)
    wanted = reference_log_odds(decoder, sequences)
    assert_close(engine.log_odds(sequences), wanted)
    assert_close(engine.log_odds(sequences), wanted)


def test_the_attention_backend_follows_the_device() -> None:
    assert select_attention(torch.device("cpu")) is GroupedAttention
    assert select_attention(torch.device("cuda:0")) is ForestAttention


# ---------------------------------------------------------------------------------- cached prefixes


def test_the_second_call_computes_only_what_is_new(decoder: Decoder) -> None:
    """A root of 20 tokens and queries of 6 and 9 are cached; the leaves of 30 tokens are computed again."""
    counting = Counting(decoder)
    engine = Engine(counting, prefix_cache_bytes=1 << 20)
    engine.log_odds(PROMPTS)
    engine.log_odds(PROMPTS)
    assert counting.rows == [20 + 6 + 9 + 30, 30]
    assert (len(engine.prefix_cache), engine.prefix_cache.hits) == (3, 3)
    assert engine.prefix_cache.num_bytes == 35 * BYTES_PER_TOKEN


def test_nothing_is_kept_without_a_budget(decoder: Decoder) -> None:
    counting = Counting(decoder)
    engine = Engine(counting)
    engine.log_odds(PROMPTS)
    engine.log_odds(PROMPTS)
    assert counting.rows == [65, 65]
    assert engine.prefix_cache.num_bytes == 0


def test_a_query_with_one_document_is_not_kept(decoder: Decoder) -> None:
    """It rarely recurs; the root does."""
    engine = Engine(decoder, prefix_cache_bytes=1 << 20)
    engine.log_odds(PROMPTS[:1])
    assert [len(segment.path()) for segment in engine.prefix_cache._tensors] == [1]


def test_what_is_kept_stays_within_its_budget(decoder: Decoder) -> None:
    budget = 40 * BYTES_PER_TOKEN
    engine = Engine(decoder, prefix_cache_bytes=budget)
    for heads in ((6, 9), (7, 8), (12, 13), (6, 9), (30, 1)):
        prompts = grid(20, heads, (4, 5))
        assert_close(engine.log_odds(prompts), reference_log_odds(decoder, prompts))
        assert 0 < engine.prefix_cache.num_bytes <= budget


@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12)), max_size=30),
    max_bytes=st.integers(0, 40),
)
def test_the_cache_keeps_its_budget(sizes: list[tuple[int, int]], max_bytes: int) -> None:
    cache = PrefixCache(max_bytes)
    for name, size in sizes:
        segment = Segment.after(None, (name,))
        cache.put(segment, torch.zeros(size, dtype=torch.uint8))
        assert cache.num_bytes == sum(t.nbytes for t in cache._tensors.values()) <= max_bytes
        assert (segment in cache) == (size <= max_bytes)


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    cache = PrefixCache(3)
    a, b, c = (Segment.after(None, (number,)) for number in range(3))
    for segment in (a, b):
        cache.put(segment, torch.zeros(1, dtype=torch.uint8))
    cache.get(a)
    cache.put(c, torch.zeros(2, dtype=torch.uint8))
    assert (a in cache, b in cache, c in cache) == (True, False, True)
    cache.clear()
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_no_more_is_stored_than_the_cache_may_hold(decoder: Decoder) -> None:
    """Without the limit a batch of long queries would need many times the cache's memory."""
    budget = 26 * BYTES_PER_TOKEN
    plan = Engine(decoder, prefix_cache_bytes=budget).prepare(grid(20, (6, 9, 9), (4, 5)))
    stored = [len(plan.layout.forest.nodes[index].ids) for index in plan.store_kv]
    assert stored == [20, 6]


class Small(Engine):
    """An engine that computes asynchronously, and whose memory holds a number of tokens."""

    overlaps = True
    limit = 1500

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.batches: list[int] = []

    def log_odds(self, prompts: Sequence[Segment]) -> list[float]:
        tokens = sum(prompt.end for prompt in prompts)
        self.batches.append(tokens)
        if tokens > self.limit:
            raise EngineOutOfMemoryError("no room")
        return [0.0] * len(prompts)


def test_the_largest_batch_is_tried_at_loading_and_halved_until_it_fits(decoder: Decoder) -> None:
    engine = Small(decoder)
    assert engine.warm_up(4096) == 1024
    assert engine.batches == [4096, 2048, 1024]
    assert Small(decoder).warm_up(1000) == 1000


def test_a_device_without_memory_for_one_prompt_is_an_error(decoder: Decoder) -> None:
    engine = Small(decoder)
    engine.limit = 5
    with pytest.raises(EngineOutOfMemoryError):
        engine.warm_up(700)
    assert engine.batches == [512, 350]


def test_a_cpu_computes_nothing_to_warm_up(decoder: Decoder) -> None:
    counting = Counting(decoder)
    assert Engine(counting).warm_up(4096) == 4096
    assert counting.rows == []


# ---------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_has_its_own_error_and_frees_what_is_kept(decoder: Decoder, error: Exception) -> None:
    failing = Failing(decoder, error)
    failing.error = None
    engine = Engine(failing, prefix_cache_bytes=1 << 20)
    expected = engine.log_odds(PROMPTS)
    failing.error = error
    with pytest.raises(EngineOutOfMemoryError, match="a batch of 30 tokens does not fit the memory of cpu"):
        engine.log_odds(PROMPTS)
    assert engine.prefix_cache.num_bytes == 0
    failing.error = None
    assert engine.log_odds(PROMPTS) == expected


def test_a_lost_device_has_an_error_of_its_own(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An illegal access on CUDA is sticky: nothing in this process will succeed on the device again."""
    engine = Engine(Failing(decoder, RuntimeError("CUDA error: an illegal memory access was encountered")))
    with pytest.raises(EngineError) as caught:
        engine.log_odds(PROMPTS)
    assert not isinstance(caught.value, DeviceLostError), "the device answers"
    monkeypatch.setattr("qwen_rerank_plugins.core.engine.engine.is_device_lost", lambda device: True)
    with pytest.raises(DeviceLostError, match=r"cpu is lost: CUDA error.*Restart the process") as lost:
        engine.log_odds(PROMPTS)
    assert lost.value.is_fatal


def test_a_device_is_lost_when_the_simplest_operation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert not is_device_lost(torch.device("cpu"))
    monkeypatch.setattr(torch, "zeros", fail)
    assert is_device_lost(torch.device("cuda:0"))
    assert not is_device_lost(torch.device("cpu"))


def test_another_fault_of_torch_is_an_engine_error(decoder: Decoder) -> None:
    engine = Engine(Failing(decoder, RuntimeError("mat1 and mat2 shapes")))
    with pytest.raises(EngineError, match="the forward pass on cpu failed: mat1 and mat2") as caught:
        engine.log_odds(PROMPTS)
    assert not isinstance(caught.value, EngineOutOfMemoryError)


def test_a_forked_child_uses_one_thread(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent's OpenMP threads do not exist there."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    Engine(decoder).after_fork()
    assert asked == [1]


def test_cuda_does_not_survive_a_fork() -> None:
    fake: Any = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.bfloat16)
    with pytest.raises(EngineError, match="start processes with 'spawn'"):
        Engine(fake).after_fork()


def test_the_state_is_plain_json(decoder: Decoder) -> None:
    info = Engine(decoder, prefix_cache_bytes=1000).info()
    assert json.loads(json.dumps(info)) == info
    assert (info["device"], info["dtype"], info["attention_backend"]) == (
        "cpu",
        "float32",
        "GroupedAttention",
    )
    assert info["prefix_cache"]["max_bytes"] == 1000


# ------------------------------------------------------------------------------------------ self-check


class Wrong(DenseAttention):
    """Attends to later tokens."""

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        return super().attend(queries, kv) + 0.1


class WrongWhenCached(DenseAttention):
    """Right unless a prefix is cached."""

    def attend_last(self, queries: Tensor, kv: Tensor) -> Tensor:
        out = super().attend_last(queries, kv)
        return out + (len(kv) != self._mask.shape[0])


class NotANumber(DenseAttention):
    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        return super().attend(queries, kv) * math.nan


class Absent(DenseAttention):
    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        raise NotImplementedError("no kernel image is available for this device")


def test_a_right_backend_passes(decoder: Decoder) -> None:
    engine = Engine(decoder, prefix_cache_bytes=1 << 20)
    check = run_self_check(engine, "print", None)
    assert (check.status, check.attention_backend, check.cached) == ("passed", "GroupedAttention", False)
    assert check.max_abs_diff is not None
    assert check.max_abs_diff <= check.tolerance == 1e-4
    assert check.reason is None
    assert len(engine.prefix_cache) == 0


@pytest.mark.parametrize("attention_backend", [Wrong, WrongWhenCached, NotANumber])
def test_a_wrong_backend_is_replaced_with_one_warning(
    decoder: Decoder, caplog: pytest.LogCaptureFixture, attention_backend: Any
) -> None:
    engine = Engine(decoder, attention_backend=attention_backend, prefix_cache_bytes=1 << 20)
    with caplog.at_level(logging.WARNING):
        check = run_self_check(engine, "print", None)
    assert (check.status, check.attention_backend) == ("failed", "GroupedAttention")
    assert check.max_abs_diff is not None
    assert check.max_abs_diff <= check.tolerance, "the figure is that of the backend in use"
    assert check.reason is not None
    assert check.reason.startswith(f"{attention_backend.__name__} ")
    assert engine.attention_backend is GroupedAttention
    (record,) = caplog.records
    assert check.reason in record.getMessage()
    assert_close(engine.log_odds(PROMPTS), reference_log_odds(decoder, PROMPTS))


def test_a_backend_that_cannot_run_is_replaced_too(
    decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(decoder, attention_backend=Absent)
    check = run_self_check(engine, "print", None)
    assert (check.status, engine.attention_backend) == ("failed", GroupedAttention)
    assert check.reason is not None
    assert check.reason.startswith("Absent raised EngineError: ")
    assert "no kernel image is available" in check.reason
    assert check.reason in caplog.text
    json.dumps(dataclasses.asdict(check), allow_nan=False)


def test_the_reference_backend_is_the_last_resort(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("attend", "attend_last"):
        monkeypatch.setattr(GroupedAttention, name, NotANumber.attend)
    engine = Engine(decoder, attention_backend=Wrong)
    assert run_self_check(engine, "print", None).attention_backend == "DenseAttention"


def test_a_model_that_no_backend_computes_right_is_not_loaded(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend in (GroupedAttention, DenseAttention):
        monkeypatch.setattr(
            backend, "attend", NotANumber.attend if backend is GroupedAttention else Absent.attend
        )
    monkeypatch.setattr(self_check, "reference_log_odds", lambda *_: [0.0] * 8)
    engine = Engine(decoder)
    with pytest.raises(EngineError, match="set self_check to False") as caught:
        run_self_check(engine, "print", None)
    assert "GroupedAttention" in str(caught.value)
    assert "DenseAttention raised EngineError" in str(caught.value)


def test_on_cuda_a_wrong_backend_is_an_error(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other backends need 100,000 launches there."""
    assert self_check._slower_backends(torch.device("cuda:0")) == ()
    monkeypatch.setattr(self_check, "_slower_backends", lambda _: ())
    with pytest.raises(EngineError, match="Wrong differs from the reference by"):
        run_self_check(Engine(decoder, attention_backend=Wrong), "print", None)


def test_the_reference_uses_no_kernel_of_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong kernel is detected, also in the step that all attention backends share."""
    from qwen_rerank_plugins.core.model import kernels

    plain = decoder_of(
        make(tmp_path, Shape(num_layers=1)), quantization=None
    )  # Triton's interpreter takes seconds per layer
    fused = Decoder(plain.architecture, plain.weights, use_kernels=True)
    engine = Engine(fused, attention_backend=ForestAttention)
    assert run_self_check(engine, "print", None).status == "passed"
    monkeypatch.setattr(self_check, "_slower_backends", lambda _: ())
    monkeypatch.setattr(kernels, "swiglu_", lambda gate_up: gate_up.chunk(2, -1)[0])
    with pytest.raises(EngineError, match="ForestAttention differs from the reference"):
        run_self_check(engine, "print", None)


def test_16_bits_are_given_more_room(tmp_path: Path) -> None:
    narrow = Engine(decoder_of(make(tmp_path, Shape(), torch.bfloat16), dtype=torch.bfloat16))
    check = run_self_check(narrow, "print", None)
    assert (check.status, check.tolerance) == ("passed", 0.1)


@pytest.mark.parametrize(
    ("rounding", "difference", "passes"),
    [
        (0.0, 0.09, True),
        (0.0, 0.11, False),
        (0.1, 0.39, True),
        (0.1, 0.41, False),
        (9.0, 0.99, True),
        (9.0, 1.01, False),
    ],
)
def test_a_deep_model_in_16_bits_is_measured_against_its_own_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, rounding: float, difference: float, passes: bool
) -> None:
    """The tolerance is four times the reference's own rounding, and at most half of the scores' standard deviation, 2."""
    narrow = Engine(decoder_of(make(tmp_path, Shape(), torch.bfloat16), dtype=torch.bfloat16))
    expected = [-2.0, 2.0] * 4

    def differences(engine: Engine, *_: object) -> float:
        is_reference = engine.attention_backend is DenseAttention
        return rounding if is_reference else difference

    monkeypatch.setattr(self_check, "reference_log_odds", lambda *_: expected)
    monkeypatch.setattr(self_check, "_max_difference", differences)
    if passes or rounding <= 0.4:
        assert run_self_check(narrow, "print", None).status == ("passed" if passes else "failed")
    else:
        with pytest.raises(EngineError, match="DenseAttention differs from the reference by 9"):
            run_self_check(narrow, "print", None)


@pytest.fixture
def cache_file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "self-check.json"


def no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the check ran again")

    monkeypatch.setattr("qwen_rerank_plugins.core.engine.self_check.reference_log_odds", fail)


def test_a_result_is_kept_for_the_next_start(
    decoder: Decoder, cache_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_self_check(Engine(decoder), "print", cache_file)
    no_comparison(monkeypatch)
    second = run_self_check(Engine(decoder), "print", cache_file)
    assert (first.cached, second.cached) == (False, True)
    assert second.max_abs_diff == first.max_abs_diff
    assert [path.name for path in cache_file.parent.iterdir()] == ["self-check.json"]


@pytest.mark.parametrize("what", ["fingerprint", "attention_backend", "dtype", "version"])
def test_a_result_is_not_anothers(
    decoder: Decoder, cache_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    run_self_check(Engine(decoder), "print", cache_file)
    if what == "version":
        monkeypatch.setattr(self_check, "__version__", "0.0.1")
    if what == "dtype":
        decoder = decoder_of(make(tmp_path, Shape()), dtype=torch.bfloat16)
    attention_backend = DenseAttention if what == "attention_backend" else GroupedAttention
    name = "another" if what == "fingerprint" else "print"
    assert not run_self_check(Engine(decoder, attention_backend=attention_backend), name, cache_file).cached
    assert run_self_check(Engine(decoder, attention_backend=attention_backend), name, cache_file).cached


def test_a_failure_is_not_kept(decoder: Decoder, cache_file: Path) -> None:
    run_self_check(Engine(decoder, attention_backend=Wrong), "print", cache_file)
    assert not cache_file.exists()


Break = Callable[[dict[str, Any]], str]


@pytest.mark.parametrize(
    "broken",
    [
        lambda content: "",
        lambda content: "{",
        lambda content: "[1]",
        lambda content: "\x00\xff",
        lambda content: json.dumps(dict.fromkeys(content, "text")),
        lambda content: json.dumps(dict.fromkeys(content)),
        lambda content: json.dumps(dict.fromkeys(content, 5.0)),
        lambda content: json.dumps(dict.fromkeys(content, math.nan)),
        lambda content: json.dumps({key: [5.0, 0.1] for key in content}),
        lambda content: json.dumps({key: [0.0] for key in content}),
        lambda content: json.dumps({key: [math.nan, 0.1] for key in content}),
    ],
)
def test_a_broken_file_costs_a_check_and_nothing_else(
    decoder: Decoder, cache_file: Path, broken: Break
) -> None:
    run_self_check(Engine(decoder), "print", cache_file)
    cache_file.write_text(broken(json.loads(cache_file.read_text())), encoding="latin-1")
    check = run_self_check(Engine(decoder), "print", cache_file)
    assert (check.status, check.cached) == ("passed", False)
    assert run_self_check(Engine(decoder), "print", cache_file).cached


def test_a_folder_that_cannot_be_written_is_no_error(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = run_self_check(Engine(decoder), "print", tmp_path / "file" / "self-check.json")
    assert check.status == "passed"


def test_the_tolerance_is_strict_for_fp32_alone(decoder: Decoder) -> None:
    assert tolerance(Engine(decoder)) == 1e-4
