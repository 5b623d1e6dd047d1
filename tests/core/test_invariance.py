"""On a CPU in fp32 and int8, a prompt's score does not depend on the batch, bit for bit: docs/invariance.md."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.model import ops
from qwen_rerank_plugins.core.model.linear import ROW_MULTIPLE, Linear, PackedLinear, pack
from tests.core.engines import decoder_of
from tests.core.forests import grid
from tests.core.tiny_checkpoints import Shape, make


def products_round_alike() -> bool:
    """Whether this processor's kernels have the property that the guarantee needs."""
    sizes = [(48, 96), (192, 104), (512, 1024), (100, 52)]
    return torch.backends.mkl.is_available() and all(
        pack(Linear(torch.randn(size[::-1], generator=torch.Generator().manual_seed(1)))).rounds_rows_alike()
        for size in sizes
    )


pytestmark = pytest.mark.skipif(
    not products_round_alike(), reason="this processor's products round by company"
)

SHAPES = {
    "qwen3": Shape(),
    "qwen2": Shape("qwen2", head_dim=12),
    "odd": Shape(hidden_size=52, intermediate_size=100, num_layers=2, num_heads=8, head_dim=20),
    "wide": Shape(
        hidden_size=192, intermediate_size=384, num_layers=2, num_heads=3, num_kv_heads=3, head_dim=64
    ),
}
PROMPTS = grid(17, (1, 6, 9), (1, 4, 4, 7, 30, 30, 140))


@pytest.fixture(params=[1, 2])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_score_has_the_same_bits_in_any_company(
    tmp_path: Path, num_threads: int, shape: str, quantization: str
) -> None:
    """Alone, in random batches of all sizes and orders, in small row blocks, and after cached prefixes."""
    decoder = decoder_of(make(tmp_path, SHAPES[shape], seed=num_threads), quantization=quantization)
    engine, caching_engine = Engine(decoder), Engine(decoder, prefix_cache_bytes=1 << 20)
    alone = [engine.log_odds([prompt])[0] for prompt in PROMPTS]
    rng = random.Random(shape)
    for size in (len(PROMPTS), *(rng.randint(1, len(PROMPTS)) for _ in range(5))):
        batch = rng.sample(range(len(PROMPTS)), size)
        for other in (engine, caching_engine):
            found = other.log_odds([PROMPTS[index] for index in batch])
            assert found == [alone[index] for index in batch], (size, other is caching_engine)
    assert caching_engine.prefix_cache.hits > 5
    assert len(set(alone)) == len(PROMPTS)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("size", [(48, 96), (192, 104), (512, 1024)])
@pytest.mark.parametrize("make_linear", [Linear, PackedLinear])
def test_a_row_of_a_product_has_the_same_bits_among_any_others(
    num_threads: int, size: tuple[int, int], make_linear: type[Linear], *, has_bias: bool
) -> None:
    """OneDNN sums a single row in another order, and MKL the last one to three rows of a thread's share."""
    draw = torch.Generator().manual_seed(size[0])
    bias = torch.randn(size[1], generator=draw) if has_bias else None
    linear = make_linear(torch.randn(size[::-1], generator=draw), bias)
    x, y = torch.randn(304, size[0], generator=draw), torch.randn(304, size[1], generator=draw)
    every, total = linear(x), y.clone()
    linear.add_to(total, x)
    for count in (*range(ROW_MULTIPLE, 80, ROW_MULTIPLE), 128, 136, 256):
        rows = slice(304 - count - count % 3, 304 - count % 3)
        assert torch.equal(linear(x[rows]), every[rows]), count
        part = y[rows].clone()
        linear.add_to(part, x[rows])
        assert torch.equal(part, total[rows]), count


@pytest.mark.parametrize("columns", [96, 100, 384])
def test_the_activation_rounds_alike_wherever_a_threads_share_ends(num_threads: int, columns: int) -> None:
    """Torch's SiLU rounds the end of a share of elements differently: 2,047 rows, of which 333 are also alone."""
    gate_up = torch.randn(2047, 2 * columns, generator=torch.Generator().manual_seed(columns))
    every = ops.swiglu_(gate_up.clone())
    for first, last in ((0, 333), (400, 1401), (1000, 1777), (46, 47)):
        assert torch.equal(ops.swiglu_(gate_up[first:last].clone()), every[first:last])
    gate, up = gate_up.double().chunk(2, -1)
    assert torch.allclose(every.double(), torch.nn.functional.silu(gate) * up, rtol=1e-6, atol=1e-6)


def test_a_decoder_reports_whether_the_promise_holds_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path, Shape())
    assert decoder_of(folder).is_batch_invariant
    assert not decoder_of(folder, dtype=torch.bfloat16).is_batch_invariant
    one_head = make(tmp_path / "one", Shape(num_kv_heads=1))
    assert not decoder_of(one_head).is_batch_invariant
    monkeypatch.setattr(
        PackedLinear,
        "__call__",
        lambda linear, x, out=None: x @ linear.weight.to_dense().t() * (1 + len(x) * 1e-6),
    )
    assert not decoder_of(folder).is_batch_invariant
