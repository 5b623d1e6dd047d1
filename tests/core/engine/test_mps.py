"""The parts of `device: mps` that a CPU can test: its selection, and that the plain path is taken. No test runs on MPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.engine.devices import choose_dtype, default_batch_tokens, resolve_devices
from qwen_rerank_plugins.core.engine.engine import Engine, reference_log_odds
from qwen_rerank_plugins.core.model import ops
from qwen_rerank_plugins.core.model.int8 import linear_converter
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import ConfigurationError, EngineOutOfMemoryError
from tests.core.engines import CPU, decoder_of
from tests.core.tiny_checkpoints import Shape, make

MPS, META = torch.device("mps"), torch.device("meta")


def forest() -> list[Segment]:
    """Prompts that share a root, and a query or none."""
    root = Segment.after(None, (1, 2, 3))
    query = Segment.after(root, (4, 5))
    return [
        Segment.after(query, (6, 7, 8)),
        Segment.after(query, (6, 9)),
        Segment.after(root, (8, 9, 10, 11)),
    ]


def test_mps_is_chosen_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_devices((RerankConfig(device="mps").device,)) == [MPS]
    assert resolve_devices(("auto",)) == [CPU]


def test_a_torch_without_mps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"device 'mps' does not exist.*has no MPS; use 'cpu'"):
        resolve_devices(("mps",))


def test_mps_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_rerank_plugins.core.engine.devices._cpu_multiplies_bf16", lambda: True)
    assert choose_dtype("auto", MPS, "bfloat16") is choose_dtype("float32", MPS, "bfloat16") is torch.float32
    for dtype in ("bfloat16", "float16"):
        with pytest.raises(ConfigurationError, match=f"dtype '{dtype}' is not supported on MPS"):
            choose_dtype(dtype, MPS, "bfloat16")
    with pytest.raises(ConfigurationError, match="quantization 'int8' is for CPUs"):
        linear_converter("int8", MPS, torch.float32, [])
    assert linear_converter("auto", MPS, torch.float32, []) is None
    assert default_batch_tokens(MPS) == default_batch_tokens(CPU)


class Operators(TorchDispatchMode):
    """Records the operators that are called, and the devices of their tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.devices: dict[str, set[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        self.devices.setdefault(str(func), set()).update(tensor.device.type for tensor in tensors)
        return result


def test_a_device_that_is_neither_cpu_nor_cuda_takes_torchs_own_operators(tmp_path: Path) -> None:
    """Torch's device "meta" has all operators and no data: the operators called there are those called on MPS."""
    engine = Engine(
        decoder_of(make(tmp_path, Shape(), torch.bfloat16), device=META), prefix_cache_bytes=1 << 20
    )
    assert not engine.overlaps
    with Operators() as called:
        engine.decoder.forward(engine.prepare(forest()))
    assert all(name.startswith("aten.") for name in called.devices)
    assert not any(
        part in name for name in called.devices for part in ("mkl", "quantized", "onednn", "pin_memory")
    )
    on_cpu = {name for name, devices in called.devices.items() if "cpu" in devices}
    # The index arrays are made on the host, and sent once.
    assert on_cpu <= {"aten.empty.memory_format", "aten.detach.default", "aten.to.dtype_layout"}
    assert called.devices["aten.linear.default"] == {"meta"}


def test_those_operators_give_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(make(tmp_path, Shape()), quantization=None)
    expected = reference_log_odds(decoder, forest())
    monkeypatch.setattr(ops, "_uses_torch_kernels", lambda _: True)
    assert Engine(decoder).log_odds(forest()) == pytest.approx(expected, abs=1e-5)


def test_the_results_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that does not block and has no event could be read before it is complete."""
    engine, copies = Engine(decoder_of(make(tmp_path, Shape()))), []
    to = torch.Tensor.to

    def spy(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        copies.append(options.get("non_blocking", False))
        return to(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", spy)
    engine.log_odds(forest())
    assert copies
    assert not any(copies)


def test_memory_that_mps_does_not_have_halves_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(decoder_of(make(tmp_path, Shape())))

    def fail(_: Any) -> None:
        raise RuntimeError("MPS backend out of memory (MPS allocated: 8.0 GB)")

    monkeypatch.setattr(engine.decoder, "forward", fail)
    with pytest.raises(EngineOutOfMemoryError, match="does not fit the memory"):
        engine.log_odds(forest())
