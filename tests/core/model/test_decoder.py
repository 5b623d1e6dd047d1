"""The decoder's blocks of rows: none is above the limit, and their size does not change the log-odds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.model import decoder as decoder_module
from qwen_rerank_plugins.core.model.decoder import Decoder
from qwen_rerank_plugins.core.model.linear import ROW_MULTIPLE, Linear
from tests.core.engines import decoder_of
from tests.core.forests import grid
from tests.core.tiny_checkpoints import Shape, make
from tests.core.tolerances import assert_close


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    return decoder_of(make(tmp_path, Shape()))


def with_blocks_of(rows: int, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> Decoder:
    monkeypatch.setattr(decoder_module, "CPU_ROWS_PER_BLOCK", rows)
    return Decoder(decoder.architecture, decoder.weights)


@pytest.mark.parametrize("num_rows", [8, 16, 24, 64, 72, 104, 800])
def test_blocks_hold_every_row_once_and_none_is_above_the_limit(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, num_rows: int
) -> None:
    blocks = with_blocks_of(64, decoder, monkeypatch).blocks(num_rows)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(num_rows))
    sizes = [block.stop - block.start for block in blocks]
    assert max(sizes) <= 64
    assert not any(size % ROW_MULTIPLE for size in sizes)
    assert len(blocks) == -(-num_rows // 64)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_weights_are_in_memory_once(tmp_path: Path, quantization: str) -> None:
    """A defect kept the tensors that were read beside the layers made from them."""
    decoder = decoder_of(make(tmp_path, Shape()), quantization=quantization)
    assert all(layer.qkv is None for layer in decoder.weights.layers)


@pytest.mark.parametrize("lengths", [(1,), (3, 3, 1), (40, 7)])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_products_have_a_multiple_of_eight_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], quantization: str
) -> None:
    """OneDNN compiles a kernel for each number of rows, and sums a single row in another order."""
    decoder = decoder_of(make(tmp_path, Shape()), quantization=quantization)
    sizes: list[int] = []
    for kind in {type(linear) for linear in decoder.weights.layers[0].linears}:

        def noted(linear: Linear, x: Tensor, *, precise: bool = False, encode: Any = kind.encode) -> Any:
            sizes.append(len(x))
            return encode(linear, x, precise=precise)

        monkeypatch.setattr(kind, "encode", noted)
    Engine(decoder).log_odds(grid(3, (2,), lengths))
    root = (
        3 if quantization == "int8" else 0
    )  # its rows are encoded with less error, in a product of their own
    assert len(sizes) > 10
    assert {size % ROW_MULTIPLE for size in sizes if size != root} <= {0, -root % ROW_MULTIPLE}


@pytest.mark.parametrize("lengths", [(1,) * 40, (1,) * 8, (1, 1, 2), (3,) * 17])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_more_prompts_than_rows_in_a_block_are_scored_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], quantization: str
) -> None:
    decoder = decoder_of(make(tmp_path, Shape()), quantization=quantization)
    prompts = grid(3, (2,), lengths)
    expected = Engine(decoder).log_odds(prompts)
    found = Engine(with_blocks_of(8, decoder, monkeypatch)).log_odds(prompts)
    assert len(set(expected)) == len(lengths)
    assert_close(found, expected)
    assert torch.isfinite(torch.tensor(found)).all()
