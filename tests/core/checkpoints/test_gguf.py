"""GGUF files are read as llama.cpp reads them, or refused by name before memory is allocated."""

from __future__ import annotations

import builtins
import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen_rerank_plugins.config import RerankConfig
from qwen_rerank_plugins.core.checkpoints.checkpoint import fingerprint, open_checkpoint
from qwen_rerank_plugins.core.checkpoints.tensors import read_tensor
from qwen_rerank_plugins.core.checkpoints.weights import load_weights
from qwen_rerank_plugins.core.engine.engine import reference_log_odds
from qwen_rerank_plugins.core.local_scorer import LocalScorer
from qwen_rerank_plugins.core.model.decoder import Decoder, Weights
from qwen_rerank_plugins.core.prompts.tokenizer import PromptTokenizer
from qwen_rerank_plugins.core.runtime import load_runtime
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    MissingDependencyError,
)
from qwen_rerank_plugins.types import ScoreRequest
from tests.core.gguf_files import SHAPE, small_vocabulary, vocabulary, write_gguf, write_recipe
from tests.core.oracle import OfficialModel
from tests.core.peft_adapters import make_adapter
from tests.core.qwen_vocabulary import qwen_tokenizer
from tests.core.texts import NASTY
from tests.core.tiny_checkpoints import Shape, make, write_checkpoint
from tests.core.tolerances import assert_close

CPU = torch.device("cpu")
UNTIED = Shape(**SHAPE.__dict__ | {"is_tied": False})
QWEN2 = Shape(**SHAPE.__dict__ | {"model_type": "qwen2"})
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q5_0", "Q5_1", "Q4_0", "Q4_1"]
ANSWERS = (257, 258)


def load(path: Path, dtype: torch.dtype = torch.float32) -> Weights:
    return load_weights(open_checkpoint(str(path)), ANSWERS, CPU, dtype)


# ----------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_dequantised_under_its_own_name(tmp_path: Path, kind: str) -> None:
    expected = write_gguf(tmp_path / "model.gguf", kind=kind)
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
    source = checkpoint.open_tensors()
    assert set(source.shapes) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(read_tensor(source, name, torch.float32, CPU), tensor), name
        part = torch.empty(1, *tensor.shape[1:]) if tensor.ndim > 1 else torch.empty(1)
        source.read_rows(name, part, 5)
        assert torch.equal(part, tensor[5:6]), name
    assert checkpoint.weight_format == f"GGUF {kind}"
    assert checkpoint.dtype == {"F16": "float16", "BF16": "bfloat16"}.get(kind, "float32")


@pytest.mark.parametrize("shape", [SHAPE, UNTIED, QWEN2], ids=["tied", "untied", "qwen2"])
@pytest.mark.parametrize("answers", [None, ANSWERS], ids=["causal", "rank"])
@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_K"])
def test_scores_are_the_official_ones_of_the_dequantised_weights(
    tmp_path: Path, shape: Shape, answers: tuple[int, int] | None, kind: str
) -> None:
    """With `cls.output.weight` as llama.cpp's converter writes it, and with the vocabulary's rows."""
    tensors = write_gguf(tmp_path / "model.gguf", shape, kind, answers=answers)
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
    assert (checkpoint.has_classifier, checkpoint.is_tied) == (answers is not None, shape.is_tied)
    twin = Shape(**shape.__dict__ | {"has_classifier": answers is not None})
    official = OfficialModel(
        write_checkpoint(tmp_path / "twin", twin.config, tensors), has_classifier=answers is not None
    )
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6]]
    weights = load(tmp_path / "model.gguf")
    assert_close(log_odds(checkpoint.architecture, weights, prompts), official.log_odds(prompts, ANSWERS))


def log_odds(architecture: Any, weights: Weights, prompts: list[list[int]]) -> list[float]:
    return reference_log_odds(
        Decoder(architecture, weights), [Segment.after(None, tuple(ids)) for ids in prompts]
    )


def test_the_architecture_comes_from_the_metadata(tmp_path: Path) -> None:
    changes = {"qwen3.rope.freq_base": 5e5, "qwen3.attention.layer_norm_rms_epsilon": 1e-5}
    write_gguf(tmp_path / "model.gguf", changes={**changes, "qwen3.context_length": 77})
    shape = open_checkpoint(str(tmp_path / "model.gguf")).architecture
    assert (shape.rope_theta, shape.max_positions, shape.vocab_size) == (5e5, 77, 264)
    assert shape.rms_eps == pytest.approx(1e-5)
    assert (shape.attention.head_dim, shape.attention.num_kv_heads, shape.qk_norm) == (64, 2, True)


def test_the_tokenizer_is_qwens(tmp_path: Path, qwen: PromptTokenizer) -> None:
    """Ids of texts that break tokenisers, of control tokens, and of padding that only the embedding has."""
    theirs = qwen_tokenizer()
    model = json.loads(theirs.to_str())["model"]
    added = {token: 3 if "|" in token else 4 for token in qwen.added_tokens}
    tokens = [*model["vocab"], *qwen.added_tokens, "[PAD151669]"]
    merges = [" ".join(pair) for pair in model["merges"]]
    write_gguf(tmp_path / "model.gguf", changes=vocabulary(tokens, merges, {**added, "[PAD151669]": 5}))
    stored = open_checkpoint(str(tmp_path / "model.gguf")).tokenizer_json
    assert stored is not None
    found = PromptTokenizer(stored)
    assert found.added_tokens == qwen.added_tokens
    assert found.size == qwen.size == 151_669
    texts = [*NASTY, "<|im_end|> </think>"]
    assert found.encode(texts) == qwen.encode(texts)
    assert found.control_ids("<|im_start|>a<think>\n\n</think>") == qwen.control_ids(
        "<|im_start|>a<think>\n\n</think>"
    )


def test_a_file_is_a_model_from_text_to_score(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, kind="Q8_0", answers=ANSWERS)
    write_recipe(tmp_path, PromptTokenizer(open_checkpoint(str(path)).tokenizer_json or ""))
    scorer = LocalScorer.from_config(RerankConfig(model=str(path), device="cpu"))
    scores = scorer.score([ScoreRequest("q", "d"), ScoreRequest("q", "another")])
    info = scorer.info()
    scorer.close()
    assert scores[0].log_odds != scores[1].log_odds
    assert (info["weight_format"], info["self_check"]["status"]) == ("GGUF Q8_0", "passed")
    assert load_runtime(RerankConfig(model="demo", device="cpu")).info()["weight_format"] == "safetensors"


def test_an_adapter_is_merged_into_dequantised_weights(tmp_path: Path) -> None:
    tensors = write_gguf(tmp_path / "model.gguf", kind="Q8_0")
    base = write_checkpoint(tmp_path / "base", SHAPE.config, tensors)
    adapter = str(make_adapter(base, tmp_path / "adapter"))
    name = "model.layers.1.mlp.up_proj.weight"
    found, expected = (
        read_tensor(
            open_checkpoint(str(path), adapters={adapter: 1.0}).open_tensors(), name, torch.float32, CPU
        )
        for path in (tmp_path / "model.gguf", base)
    )
    assert torch.equal(found, expected)
    assert not torch.equal(found, tensors[name])


# ----------------------------------------------------------------------------------------------- places


def test_a_folder_with_one_file_and_a_file_by_any_name_are_found(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    expected = fingerprint(open_checkpoint(str(tmp_path / "model.gguf")))
    assert fingerprint(open_checkpoint(str(tmp_path))) == expected
    (tmp_path / "sha256-0a0a").hardlink_to(tmp_path / "model.gguf")  # as Ollama names it
    assert open_checkpoint(str(tmp_path / "sha256-0a0a")).weight_format == "GGUF F32"
    (tmp_path / "other.gguf").hardlink_to(tmp_path / "model.gguf")
    with pytest.raises(
        CheckpointFormatError, match=r"several GGUF files; name one of them: model\.gguf, other\.gguf"
    ):
        open_checkpoint(str(tmp_path))
    make(tmp_path, SHAPE)  # safetensors come first
    assert open_checkpoint(str(tmp_path)).weight_format == "safetensors"


def test_a_split_file_is_read_by_any_of_its_parts(tmp_path: Path) -> None:
    expected = write_gguf(tmp_path / "model.gguf", max_tensors=7)
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == [f"model-0000{n}-of-00004.gguf" for n in (1, 2, 3, 4)]
    for place in (tmp_path, *parts):
        checkpoint = open_checkpoint(str(place))
        assert checkpoint.files == tuple(parts)
        source = checkpoint.open_tensors()
        assert all(torch.equal(read_tensor(source, n, torch.float32, CPU), t) for n, t in expected.items())
    alone = tmp_path / "alone.gguf"
    alone.hardlink_to(parts[0])
    with pytest.raises(
        CheckpointFormatError, match="is one of 4 parts of a split file; keep the parts' names"
    ):
        open_checkpoint(str(alone))
    parts[2].unlink()
    with pytest.raises(CheckpointFormatError, match=r"lacks its part 'model-00003-of-00004\.gguf'"):
        open_checkpoint(str(parts[0]))
    parts[2].hardlink_to(parts[1])
    with pytest.raises(CheckpointFormatError, match="repeats the tensor"):
        open_checkpoint(str(parts[0]))


def test_a_file_of_a_repository_is_named_behind_a_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    write_gguf(tmp_path / "0a0a" / "q8" / "model.gguf")

    def download(model: str, revision: str | None, files: list[str], _hub: str) -> tuple[Path, str]:
        asked.append((model, revision, *files))
        return tmp_path / "0a0a", "0a0a"

    monkeypatch.setattr("qwen_rerank_plugins.core.checkpoints.folder.download", download)
    checkpoint = open_checkpoint("org/model-GGUF:q8/model.gguf", "v1")
    assert (checkpoint.revision, checkpoint.files) == ("0a0a", (tmp_path / "0a0a/q8/model.gguf",))
    with pytest.raises(
        CheckpointNotFoundError, match=r"'org/model-GGUF' has no file 'm-00001-of-00002\.gguf'"
    ):
        open_checkpoint("org/model-GGUF:m-00001-of-00002.gguf")
    assert asked == [
        ("org/model-GGUF", "v1", "q8/model.gguf", "q8/rerank_recipe.json"),
        ("org/model-GGUF", None, "m-*-of-00002.gguf", "rerank_recipe.json"),
    ]
    for file in ("../../secret.gguf", "/etc/x.gguf"):
        with pytest.raises(CheckpointNotFoundError, match="is outside of the repository 'org/model-GGUF'"):
            open_checkpoint(f"org/model-GGUF:{file}")
    with pytest.raises(CheckpointFormatError, match="holds GGUF files; name one, as in 'org/model-GGUF:"):
        open_checkpoint("org/model-GGUF")


def test_the_fingerprint_knows_the_file(tmp_path: Path) -> None:
    path, seen = tmp_path / "model.gguf", []
    for kind, changes in (("F32", {}), ("Q8_0", {}), ("Q8_0", {"qwen3.rope.freq_base": 5e5})):
        write_gguf(path, kind=kind, changes=changes)
        seen.append(fingerprint(open_checkpoint(str(path))))
    (tmp_path / "rerank_recipe.json").write_text("{}")
    seen.append(fingerprint(open_checkpoint(str(path))))
    assert len(set(seen)) == len(seen)


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "model.gguf")
    real = builtins.__import__

    def without_gguf(name: str, *rest: Any) -> Any:
        if name.startswith("gguf"):
            raise ModuleNotFoundError(name, name="gguf")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_gguf)
    with pytest.raises(
        MissingDependencyError, match=r"GGUF files need 'gguf': pip install 'qwen-rerank-plugins\[gguf\]'"
    ):
        open_checkpoint(str(tmp_path / "model.gguf"))


# ---------------------------------------------------------------------------------------------- refused

TOKENS = small_vocabulary()["tokenizer.ggml.tokens"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"changes": {"qwen3.pooling_type": 1}}, "is an embedding model, with the pooling type 1"),
        ({"changes": {"qwen3.rope.scaling.type": "yarn"}}, "has the rotary embedding 'yarn', which is not"),
        ({"changes": {"qwen3.attention.value_length": 32}}, "has values of another size than its keys"),
        ({"changes": {"qwen3.rope.dimension_count": 32}}, "has a partial rotary embedding"),
        ({"changes": {"qwen3.attention.causal": False}}, "has attention in both directions"),
        ({"changes": {"qwen3.attention.sliding_window": 9}}, "has sliding-window attention"),
        ({"changes": {"qwen3.classifier.output_labels": ["a", "b"]}, "answers": ANSWERS}, r"has the classes \['a', 'b'\]"),
        ({"changes": {"qwen3.block_count": None}}, "missing or invalid field"),
        ({"changes": {"qwen3.block_count": [1, 2]}}, "missing or invalid field.*'an array'"),
        ({"changes": {"qwen3.embedding_length": "many"}}, "missing or invalid field"),
        ({"changes": {"qwen3.attention.head_count_kv": 3}}, "impossible shape"),
        ({"changes": {"qwen3.feed_forward_length": 128}}, r"has the shape \(256, 256\), but .* describes \(128, 256\)"),
        ({"changes": {"qwen3.block_count": 2**32 - 1}}, "are too few for the 4294967295 layers"),
        ({"changes": {"tokenizer.ggml.pre": "llama-bpe"}}, "the pre-tokenizer 'llama-bpe'; only 'gpt2' with 'qwen2'"),
        ({"changes": {"tokenizer.ggml.model": "llama"}}, "has the tokenizer 'llama'"),
        ({"changes": {"tokenizer.ggml.merges": None}}, "lacks tokens, their types, or merges"),
        ({"changes": {"tokenizer.ggml.tokens": [1, 2]}}, "lacks tokens, their types, or merges"),
        ({"changes": {"tokenizer.ggml.token_type": [1] * 263}}, "a token is there twice or has no type"),
        ({"changes": {"tokenizer.ggml.tokens": [*TOKENS[:-1], "no"]}}, "a token is there twice or has no type"),
        ({"changes": {"tokenizer.ggml.merges": ["y q"]}}, "'y q' joins no tokens"),
        ({"changes": {"tokenizer.ggml.merges": ["yes "]}}, "'yes ' joins no tokens"),
        ({"changes": {"tokenizer.ggml.merges": ["y e s"]}}, "'y e s' joins no tokens"),
        ({"drop": ["token_embd.weight"]}, "has no tensor token_embd.weight, so it is not a whole model"),
        ({"drop": ["blk.1.ffn_up.weight"]}, r"lacks model\.layers\.1\.mlp\.up_proj\.weight"),
        ({"extra": {"rope_freqs.weight": np.ones(32, np.float32)}}, r"does not describe: rope_freqs\.weight"),
        ({"extra": {"blk.2.ffn_up.weight": np.ones((256, 256), np.float32)}}, r"not describe: model\.layers\.2"),
        ({"extra": {"cls.output.bias": np.ones(2, np.float32)}, "answers": ANSWERS}, r"describe: cls\.output\.bias"),
        ({"extra": {"cls.output.weight": np.ones((3, 256), np.float32)}}, r"score\.weight has the shape \(3, 256\)"),
        ({"extra": {"cls.output.weight": np.ones((2, 256), np.float32)}}, "score.weight is zero, so every score"),
        ({"drop": ["output_norm.weight"], "extra": {"output_norm.weight": np.ones(256, np.int8)}}, "is stored as I8"),
    ],
)  # fmt: skip
def test_what_is_not_computed_exactly_is_refused_by_name(
    tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    write_gguf(tmp_path / "model.gguf", **options)
    with pytest.raises(CheckpointError, match=complaint):
        load(tmp_path / "model.gguf")


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", changes={"general.architecture": "llama"})
    with pytest.raises(CheckpointFormatError, match="has the model type 'llama', which is not supported"):
        open_checkpoint(str(tmp_path / "model.gguf"))


def header(num_tensors: int = 0, entries: bytes = b"", num_entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_entries) + entries


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def tensor(name: str, *size: int, kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(size)}QIQ", len(size), *size, kind, offset)


HUGE = 2**63


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"GGUF", "ends at byte 4, within its header"),
        (header(version=1), "version 1 is not supported"),
        (b"GGUF\x00\x00\x00\x03" + bytes(16), "version 50331648 is not supported; .* little-endian"),
        (header(HUGE), "announces 9223372036854775808 entries, which it cannot hold"),
        (header(num_entries=HUGE), "announces 9223372036854775808 entries"),
        (header(num_entries=2**40), "announces 1099511627776 entries"),
        (header(0, struct.pack("<Q", HUGE), 1), "announces 9223372036854775808 entries"),
        (header(0, string("k") + struct.pack("<I", 99), 1), "a value has the unknown type 99"),
        (
            header(0, string("k") + struct.pack("<IIQ", 9, 0, HUGE), 1),
            "announces 9223372036854775808 entries",
        ),
        (
            header(0, string("k") + struct.pack("<IIQ", 9, 8, 2**60), 1),
            "announces 1152921504606846976 entries",
        ),
        (
            header(0, string("k") + struct.pack("<IIQQ", 9, 8, 1, HUGE), 1),
            "ends at byte 57, within its header",
        ),
        (header(0, string("k") + struct.pack("<II", 9, 9) * 50, 1), "elements of the type 9, which is not"),
        (header(0, 2 * (string("k") + struct.pack("<IB", 0, 1)), 2), "the key 'k' is there twice"),
        (header(0, struct.pack("<Q", 2) + b"\xff\xfe" + bytes(9), 1), "can't decode"),
        (
            header(0, string("general.alignment") + struct.pack("<II", 4, 0), 1),
            "alignment 0 is not a power of two",
        ),
        (header(1, tensor("t", *[1] * 9)), "the tensor 't' has 9 dimensions"),
        (header(1, tensor("t", HUGE, HUGE)), "before the end of the tensor 't'; download it again"),
        (header(1, tensor("t", 2**32, 2**32)), "before the end of the tensor 't'"),
        (header(1, tensor("t", 8, offset=HUGE)), "before the end of the tensor 't'"),
        (header(1, tensor("t", 33, kind=8)), "rows of 33 numbers, which are not blocks of 32"),
        (header(1, tensor("t", 8, kind=77)), "the unknown number format 77"),
        (header(2, 2 * tensor("t", 0) + bytes(99)), "the tensor 't' is there twice"),
        (header(9, b"".join(tensor(f"t{n}", 90) for n in range(9)) + bytes(500)), "its tensors overlap"),
    ],
)
def test_hostile_headers_are_refused_before_anything_is_allocated(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=rf"model\.gguf' is not a valid GGUF file: .*{complaint}"):
        open_checkpoint(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, kind="Q8_0")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(CheckpointFormatError, match="is not a valid GGUF file: it ends at byte"):
        open_checkpoint(str(path))


Fault = Callable[[bytearray], None]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 30_000) | st.none(),
    flips=st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_no_damage_raises_anything_but_a_checkpoints_error(
    damaged: bytes, tmp_path: Path, cut: int | None, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(damaged[:cut])
    for place, value in flips:
        content[min(place, len(content)) : place + 1] = bytes([value])
    (tmp_path / "model.gguf").write_bytes(content)
    with contextlib.suppress(CheckpointError):
        checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
        load_weights(checkpoint, ANSWERS, CPU, torch.float32)
        PromptTokenizer(checkpoint.tokenizer_json or "")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    write_gguf(path, Shape(hidden_size=32, intermediate_size=32, num_layers=1, vocab_size=264), "Q8_0")
    return path.read_bytes()
