"""The decoder's blocks of rows: none above the limit, and the same log-odds however small they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwen_rerank_plugins.core.engine.engine import Engine
from qwen_rerank_plugins.core.model import decoder as decoder_module
from qwen_rerank_plugins.core.model.decoder import Decoder
from tests.core.engines import decoder_of, quantized
from tests.core.forests import grid
from tests.core.tiny_checkpoints import Shape, make
from tests.core.tolerances import assert_close


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    return decoder_of(make(tmp_path, Shape()))


def with_blocks_of(rows: int, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> Decoder:
    monkeypatch.setattr(decoder_module, "CPU_ROWS_PER_BLOCK", rows)
    monkeypatch.setattr(decoder_module, "CPU_ROWS_PER_INT8_BLOCK", rows)
    return Decoder(decoder.architecture, decoder.weights)


@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 15, 16, 17, 100])
def test_blocks_hold_every_row_once_and_none_is_above_the_limit(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, num_rows: int
) -> None:
    blocks = with_blocks_of(8, decoder, monkeypatch).blocks(num_rows)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(num_rows))
    assert max(block.stop - block.start for block in blocks) <= 8
    assert len(blocks) == -(-num_rows // 8)


@pytest.mark.parametrize("lengths", [(1,) * 40, (1,) * 8, (1, 1, 2), (3,) * 17])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_more_prompts_than_rows_in_a_block_are_scored_alike(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], quantization: str
) -> None:
    """The MLP's buffer held a block of tokens, but took all prompts' last rows: torch resized it, with a warning."""
    prompts = grid(3, (2,), lengths)
    expected = Engine(quantized(decoder, quantization)).log_odds(prompts)
    found = Engine(with_blocks_of(8, decoder, monkeypatch)).log_odds(prompts)
    assert len(set(expected)) == len(lengths)
    assert_close(found, expected)
    assert torch.isfinite(torch.tensor(found)).all()
