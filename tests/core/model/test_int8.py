"""int8: exact products of rounded numbers, a quarter of the memory, and scores close to fp32's."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qwen_rerank_plugins.core.checkpoints.weights import weight_bytes
from qwen_rerank_plugins.core.engine.engine import Engine, reference_log_odds
from qwen_rerank_plugins.core.model import int8 as int8_module
from qwen_rerank_plugins.core.model.int8 import (
    EIGHT_BITS,
    EXACT,
    SEVEN_BITS,
    ActivationCodes,
    Int8Linear,
    _relative_time,
    _worst_case_error,
    exact_activations,
    linear_converter,
    quantize_rows,
)
from qwen_rerank_plugins.core.model.linear import Linear, pack
from qwen_rerank_plugins.errors import ConfigurationError, EngineError
from tests.core.engines import CPU, decoder_of
from tests.core.forests import grid
from tests.core.tiny_checkpoints import Shape, make
from tests.core.tolerances import sigmoid

CUDA = torch.device("cuda")
PROMPTS = grid(20, (6, 9), (4, 4, 7, 30))
EXACT_HERE = [codes for codes in (EIGHT_BITS, SEVEN_BITS) if _worst_case_error(codes, 24, 1024) <= EXACT]
"""What is exact on this processor: both with VNNI or AMX, and seven bits elsewhere."""
BEST = EXACT_HERE[0]


@pytest.fixture
def linear() -> Linear:
    draw = torch.Generator().manual_seed(1)
    return Linear(torch.randn(24, 32, generator=draw), torch.randn(24, generator=draw))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(7, 32, generator=torch.Generator().manual_seed(2))


def product(linear: Linear, x: torch.Tensor) -> torch.Tensor:
    return linear(linear.encode(x))


def test_a_product_is_within_what_rounding_can_do(linear: Linear, x: torch.Tensor) -> None:
    """Each factor is off by half a step at most: with eight bits, 1/254 of its row's largest number."""
    exact, found = linear(x), product(Int8Linear.from_linear(linear, BEST), x)
    largest_x = x.abs().amax(-1, keepdim=True)
    largest_w = linear.weight.abs().amax(-1)
    half_x, half_w = 0.5 / BEST.limit, 0.5 / 127
    bound = 32 * largest_x * largest_w * (half_x + half_w + half_x * half_w)
    assert ((found - exact).abs() <= bound).all()
    assert (found - exact).abs().max() < 25 / BEST.limit


def test_numbers_that_are_steps_are_exact() -> None:
    """The largest code in each row makes the step 1, so that integers are exact."""
    limit = BEST.limit
    weight = torch.randint(-126, 127, (5, 16), generator=torch.Generator().manual_seed(3)).float()
    x = torch.randint(1 - limit, limit, (4, 16), generator=torch.Generator().manual_seed(4)).float()
    weight[:, 0], x[:, 0] = 127, limit
    assert torch.allclose(product(Int8Linear.from_linear(Linear(weight), BEST), x), x @ weight.T, rtol=1e-6)


def test_precise_rows_have_the_error_of_weights_alone(linear: Linear, x: torch.Tensor) -> None:
    """A coarse and a fine part together have 15 bits of an activation, or 13."""
    int8 = Int8Linear.from_linear(linear, BEST)
    codes, scale = quantize_rows(linear.weight, 127)
    wanted = x.double() @ (codes * scale).double().T + torch.as_tensor(linear.bias)
    found = int8(int8.encode(x, precise=True))
    coarse = (product(int8, x) - wanted).abs().max()
    assert (found - wanted).abs().max() < coarse / 50
    target = torch.ones(7, 24)
    int8.add_to(target, int8.encode(x, precise=True))
    torch.testing.assert_close(target, 1 + found)


@pytest.mark.parametrize("activations", EXACT_HERE)
def test_fewer_bits_cost_accuracy_and_nothing_else(
    linear: Linear, x: torch.Tensor, activations: ActivationCodes
) -> None:
    exact, found = linear(x), product(Int8Linear.from_linear(linear, activations), x)
    error = float((found - exact).norm() / exact.norm())
    print(f"relative error with +-{activations.limit}: {error:.3g}")
    assert 0.2 / activations.limit < error < 2 / activations.limit


def test_products_of_the_largest_numbers_are_exact_here() -> None:
    """On any processor: eight bits with VNNI or AMX, seven elsewhere."""
    shapes = [(96, 64), (24, 1024), (8, 4096)]
    found = exact_activations(shapes)
    assert max(_worst_case_error(found, *size) for size in shapes) <= 1e-6


def test_without_vnni_seven_bits_are_used(tmp_path: Path) -> None:
    """OneDNN is limited to AVX2, where a sum of two products of eight bits saturates."""
    script = (
        "from qwen_rerank_plugins.core.model.int8 import EIGHT_BITS, _worst_case_error, exact_activations\n"
        "print(exact_activations([(64, 512)]).limit, _worst_case_error(EIGHT_BITS, 64, 512) > 0.1)"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["63", "True"]


def test_a_processor_that_is_never_exact_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_module, "_worst_case_error", lambda *_: 0.25)
    with pytest.raises(
        EngineError, match=r"differs from integers by 0\.25 of its size\. Set quantization to 'none'"
    ):
        linear_converter("int8", CPU, torch.float32, [(64, 512)])


def test_a_product_can_be_added_in_place(linear: Linear, x: torch.Tensor) -> None:
    int8 = Int8Linear.from_linear(Linear(linear.weight), BEST)
    target = torch.ones(7, 24)
    int8.add_to(target, int8.encode(x))
    torch.testing.assert_close(target, 1 + product(int8, x))


def test_rows_of_zeros_stay_zeros(linear: Linear) -> None:
    linear.weight[3] = 0
    out = product(Int8Linear.from_linear(Linear(linear.weight), BEST), torch.zeros(20, 32))
    assert torch.equal(out, torch.zeros(20, 24))


def test_not_a_number_is_not_hidden(linear: Linear, x: torch.Tensor) -> None:
    """Rounding must not turn a broken activation into a plausible score."""
    x[2, 5] = torch.nan
    out = product(Int8Linear.from_linear(linear, BEST), x)
    assert out[2].isnan().all()
    assert out[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_has_the_inputs_dtype(linear: Linear, x: torch.Tensor, dtype: torch.dtype) -> None:
    assert product(Int8Linear.from_linear(linear, BEST), x.to(dtype)).dtype is dtype


def test_the_memory_is_a_quarter(linear: Linear) -> None:
    assert Int8Linear.from_linear(Linear(linear.weight), BEST).num_bytes == 24 * 32 + 24 * 4


def test_scores_stay_near(tmp_path: Path) -> None:
    shape = Shape(hidden_size=128, intermediate_size=256)
    folder = make(tmp_path, shape)
    exact = decoder_of(folder)
    wanted, size = reference_log_odds(exact, PROMPTS), weight_bytes(exact.weights)
    int8 = decoder_of(folder, quantization="int8")
    assert int8.is_quantized
    assert not exact.is_quantized
    found = Engine(int8).log_odds(PROMPTS)
    error = max(abs(sigmoid(a) - sigmoid(b)) for a, b in zip(found, wanted, strict=True))
    print(f"int8 probability: {error:.3g}")
    assert error < 0.05
    assert weight_bytes(int8.weights) < size / 3


def test_other_kinds_are_refused() -> None:
    assert linear_converter("none", CUDA, torch.float32, []) is None
    with pytest.raises(ConfigurationError, match="quantization 'fp8' is not supported; use"):
        linear_converter("fp8", CPU, torch.float32, [])


@pytest.mark.parametrize(("ratio", "chosen"), [(0.3, "int8"), (0.75, "int8"), (0.76, "none"), (30.0, "none")])
def test_auto_selects_int8_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ratio: float, chosen: str
) -> None:
    monkeypatch.setattr(int8_module, "_relative_time", lambda *_: ratio)
    caplog.set_level(logging.INFO)
    convert = linear_converter("auto", CPU, torch.float32, [(64, 512)])
    assert convert is not None
    assert convert(Linear(torch.ones(8, 64))).is_quantized == (chosen == "int8")
    said = f"a product in int8 takes {ratio:.2f} of its time in float32 here; int8 is used up to 0.75"
    assert caplog.messages == [f"quantization is {chosen!r}: {said}"]


def test_auto_keeps_the_dtype_where_int8_is_not_exact_or_not_measured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(int8_module, "_relative_time", lambda *_: 0.1)
    caplog.set_level(logging.INFO)
    assert linear_converter("auto", CUDA, torch.bfloat16, [(64, 512)]) is None
    monkeypatch.setattr(int8_module, "_worst_case_error", lambda *_: 0.25)
    assert linear_converter("auto", CPU, torch.float32, [(64, 512)]) is pack
    assert "'auto' selects int8 on a CPU only" in caplog.messages[0]
    assert "differs from integers by 0.25 of its size" in caplog.messages[1]


def test_int8_is_for_cpus() -> None:
    with pytest.raises(ConfigurationError, match="on cuda use 'none'"):
        linear_converter("int8", CUDA, torch.bfloat16, [(64, 512)])


def test_a_format_that_is_named_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_module, "_relative_time", None)
    convert = linear_converter("int8", CPU, torch.float32, [(64, 512)])
    assert convert is not None
    assert convert(Linear(torch.ones(8, 64))).is_quantized


def test_the_relative_time_is_that_of_two_products() -> None:
    ratio = _relative_time(torch.float32, (96, 64), EIGHT_BITS)
    assert 0 < ratio < math.inf


@pytest.mark.parametrize("activations", EXACT_HERE)
def test_a_row_with_an_outlier_has_a_fine_part(activations: ActivationCodes) -> None:
    """A number above 16 times the root mean square would leave two or three codes for the others."""
    draw = torch.Generator().manual_seed(9)
    linear = Int8Linear.from_linear(Linear(torch.randn(24, 1024, generator=draw)), activations)
    x = torch.randn(6, 1024, generator=draw)
    x[1, 3], x[4, 700] = 1000.0, -30.0
    exact = x @ _dequantised(linear).T
    encoded = linear.encode(x)
    assert encoded.fine_rows is not None
    assert encoded.fine_rows.tolist() == [1, 4]
    found = linear(encoded)
    errors = (found - exact).norm(dim=1) / exact.norm(dim=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_module, "MAX_PEAK", math.inf)
        coarse = linear(linear.encode(x))
    coarse_errors = (coarse - exact).norm(dim=1) / exact.norm(dim=1)
    assert (errors[[1, 4]] < coarse_errors[[1, 4]] / 50).all()
    assert torch.equal(found[[0, 2, 3, 5]], coarse[[0, 2, 3, 5]])
    target = torch.ones(6, 24)
    linear.add_to(target, encoded)
    torch.testing.assert_close(target, 1 + found)


def _dequantised(linear: Int8Linear) -> torch.Tensor:
    """Return the weights that a layer multiplies by, as products with the unit vectors."""
    size = linear.in_features
    return linear(linear.encode(torch.eye(size), precise=True)).T


def test_a_row_has_the_same_bits_beside_a_row_with_a_fine_part() -> None:
    draw = torch.Generator().manual_seed(5)
    linear = Int8Linear.from_linear(Linear(torch.randn(512, 1024, generator=draw)), BEST)
    x, start = torch.randn(9, 1024, generator=draw), torch.randn(9, 512, generator=draw)
    x[4, 0] = 1000.0
    together, alone = start.clone(), start[:4].clone()
    linear.add_to(together, linear.encode(x))
    linear.add_to(alone, linear.encode(x[:4]))
    assert torch.equal(alone, together[:4])
    assert torch.equal(product(linear, x[:4]), product(linear, x)[:4])
