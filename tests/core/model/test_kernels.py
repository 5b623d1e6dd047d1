"""The Triton kernels against their reference implementations, in Triton's interpreter or on a GPU if there is one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qwen_rerank_plugins.core.engine.engine import Engine, reference_log_odds
from qwen_rerank_plugins.core.model import kernels, ops
from qwen_rerank_plugins.core.model.attention import ForestAttention
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.ops import RotaryCache
from qwen_rerank_plugins.errors import ConfigurationError
from tests.core.engines import decoder_of
from tests.core.forests import grid
from tests.core.tiny_checkpoints import Shape, make
from tests.core.tolerances import assert_close

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]  # the interpreter is slow on a busy machine

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDING = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Relative error of one rounding to the number format, truncation included; Triton's interpreter truncates to bf16."""

dtypes = pytest.mark.parametrize("dtype", ROUNDING, ids=str)


def draw(*size: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return numbers.to(DEVICE, dtype)


def assert_rounded(found: Tensor, exact: Tensor) -> None:
    """One rounding of the exact result, plus that of fp32's sums."""
    torch.testing.assert_close(found.float(), exact, rtol=ROUNDING[found.dtype], atol=3e-6)


@dtypes
@pytest.mark.parametrize("columns", [1, 7, 64, 1024, 2560])
def test_rms_norm(dtype: torch.dtype, columns: int) -> None:
    x, weight = draw(5, columns, dtype=dtype), draw(columns, dtype=dtype, seed=1)
    assert_rounded(kernels.rms_norm(x, weight, 1e-6), ops.rms_norm(x.float(), weight.float(), 1e-6))


@dtypes
@pytest.mark.parametrize("columns", [1, 96, 3072])
def test_swiglu(dtype: torch.dtype, columns: int) -> None:
    gate_up = draw(5, 2 * columns, dtype=dtype)
    gate_up[0, 0] = -90  # its exponential is beyond fp32
    exact = ops.swiglu_(gate_up.float())
    assert_rounded(kernels.swiglu_(gate_up), exact)


@dtypes
@pytest.mark.parametrize("head_dim", [4, 12, 128])
@pytest.mark.parametrize("num_heads", [1, 3, 40])
@pytest.mark.parametrize("has_norm", [True, False])
def test_norm_and_rotary_embedding(
    dtype: torch.dtype, head_dim: int, num_heads: int, *, has_norm: bool
) -> None:
    """Out of place, in place, and in rows that are part of longer ones."""
    num_rows = 5
    frequencies = 1.0 / 1e4 ** (torch.arange(0, head_dim, 2, device=DEVICE) / head_dim)
    rotation = RotaryCache.at(torch.arange(3, 3 + num_rows, device=DEVICE), frequencies, torch.float32)
    longer = draw(num_rows, 2 * num_heads * head_dim, dtype=dtype)
    x = longer[:, : num_heads * head_dim]
    rest = longer[:, num_heads * head_dim :].clone()
    norm = draw(head_dim, dtype=dtype, seed=1) if has_norm else None
    exact = torch.empty(x.shape, device=DEVICE)
    plain_norm = None if norm is None else norm.float()
    ops.apply_qk_norm_rope(x.float().contiguous(), plain_norm, rotation, 1e-6, exact)
    found = torch.empty_like(x)
    kernels.apply_qk_norm_rope(x, norm, rotation, 1e-6, found)
    kernels.apply_qk_norm_rope(x, norm, rotation, 1e-6, x)
    torch.testing.assert_close(found.float(), exact, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    assert torch.equal(x, found)
    assert torch.equal(longer[:, num_heads * head_dim :], rest)


@pytest.mark.parametrize(
    "shape", [Shape(), Shape("qwen2", num_kv_heads=1, head_dim=12)], ids=["qwen3", "qwen2"]
)
def test_a_decoder_of_kernels_scores_as_the_plain_one(tmp_path: Path, shape: Shape) -> None:
    """All kernels at once: computed together, with cached prefixes, and without what the first batch left."""
    plain = decoder_of(make(tmp_path, shape), device=DEVICE, quantization=None)
    fused = Decoder(plain.architecture, plain.weights, use_kernels=True)
    prompts = grid(20, (6, 9), (1, 4, 4, 70))
    engine = Engine(fused, prefix_cache_bytes=1 << 20, attention_backend=ForestAttention)
    wanted = reference_log_odds(plain, prompts)
    assert_close(engine.log_odds(prompts), wanted)
    assert_close(engine.log_odds(prompts), wanted)
    assert engine.prefix_cache.hits > 0
    assert_close(Engine(fused, attention_backend=ForestAttention).log_odds(prompts[:1]), wanted[:1])


def test_without_triton_a_decoder_for_cuda_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = decoder_of(make(tmp_path, Shape()), quantization=None)
    monkeypatch.delattr("qwen_rerank_plugins.core.model.kernels")
    monkeypatch.delitem(sys.modules, "qwen_rerank_plugins.core.model.kernels")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ConfigurationError, match="install it"):
        Decoder(plain.architecture, plain.weights, use_kernels=True)


@pytest.mark.parametrize("num_key_heads", [1, 3])
def test_query_and_key_heads_have_norms_of_their_own(num_key_heads: int) -> None:
    """One call for both gives what a call for each gives."""
    head_dim, num_rows = 8, 5
    frequencies = 1.0 / 1e4 ** (torch.arange(0, head_dim, 2, device=DEVICE) / head_dim)
    rotation = RotaryCache.at(torch.arange(num_rows, device=DEVICE), frequencies, torch.float32)
    norms = draw(2, head_dim, dtype=torch.float32, seed=1)
    x = draw(num_rows, (4 + num_key_heads) * head_dim, dtype=torch.float32)
    wanted = x.clone()
    for part, norm in zip((wanted[:, : 4 * head_dim], wanted[:, 4 * head_dim :]), norms, strict=True):
        kernels.apply_qk_norm_rope(part, norm, rotation, 1e-6, part)
    kernels.apply_qk_norm_rope(x, norms[0], rotation, 1e-6, x, key_norm=norms[1], num_key_heads=num_key_heads)
    assert torch.equal(x, wanted)
