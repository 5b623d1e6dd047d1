"""LoRA adapters: merged as PEFT merges them, or refused by name before any weight is read."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwen_rerank_plugins.core.checkpoints import tensors as tensors_module
from qwen_rerank_plugins.core.checkpoints.checkpoint import Checkpoint, fingerprint, open_checkpoint
from qwen_rerank_plugins.core.checkpoints.tensors import read_tensor
from qwen_rerank_plugins.core.checkpoints.weights import load_weights
from qwen_rerank_plugins.core.engine.engine import reference_log_odds
from qwen_rerank_plugins.core.model.decoder import Decoder, Weights
from qwen_rerank_plugins.core.sequences import Segment
from qwen_rerank_plugins.errors import CheckpointError, CheckpointFormatError, CheckpointNotFoundError
from tests.core.peft_adapters import make_adapter, merged_tensors, peft_model
from tests.core.tiny_checkpoints import Shape, make
from tests.core.tolerances import assert_close

pytestmark = pytest.mark.timeout(400)  # peft imports for two minutes on a busy machine

CPU = torch.device("cpu")
TIED, UNTIED, QWEN2 = Shape(), Shape(is_tied=False), Shape("qwen2", head_dim=12)
TOLERANCE = 1e-5
ANSWERS = (5, 9)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Shape, Path]:
    return {shape: make(tmp_path_factory.mktemp("base"), shape) for shape in (TIED, UNTIED, QWEN2)}


@pytest.fixture(scope="session")
def adapter(bases: dict[Shape, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of all linear layers of the tied base."""
    return make_adapter(bases[TIED], tmp_path_factory.mktemp("adapter"))


def merged(base: Path, **adapters: float) -> dict[str, Tensor]:
    source = open_checkpoint(str(base), adapters=adapters).open_tensors()
    return {name: read_tensor(source, name, torch.float32, CPU) for name in source.shapes}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=TOLERANCE, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("shape", [TIED, UNTIED, QWEN2], ids=["tied", "untied", "qwen2"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 2]},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"k_proj": 3}},
        {"use_rslora": True, "alpha_pattern": {r".*\.[02]\..*": 9, r"^model.layers.1.*(q|v)_proj": 3}},
        {"fan_in_fan_out": True},
        {"use_dora": True},
        {"modules_to_save": ["norm", "input_layernorm"]},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_an_adapter_is_merged_as_peft_merges_it(
    bases: dict[Shape, Path], tmp_path: Path, shape: Shape, options: dict[str, Any]
) -> None:
    base = bases[shape]
    adapter = make_adapter(base, tmp_path, **options)
    expected = merged_tensors(peft_model(base, adapter))
    found = merged(base, **{str(adapter): 1.0})
    assert not torch.allclose(expected["model.layers.0.self_attn.q_proj.weight"],
                              shape.tensors()["model.layers.0.self_attn.q_proj.weight"], atol=0.01)  # fmt: skip
    assert_same(found, expected)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_replace_those_of_the_base(
    bases: dict[Shape, Path], tmp_path: Path, bias: str
) -> None:
    adapter = make_adapter(bases[QWEN2], tmp_path, bias=bias)
    expected = merged_tensors(peft_model(bases[QWEN2], adapter))
    assert_same(merged(bases[QWEN2], **{str(adapter): 1.0}), expected)


def test_several_adapters_are_added_with_their_weights(bases: dict[Shape, Path], tmp_path: Path) -> None:
    folders = [make_adapter(bases[TIED], tmp_path / str(n), seed=n, r=3 + n) for n in range(3)]
    weights = {str(folder): weight for folder, weight in zip(folders, (1.0, -0.25, 2.0), strict=True)}
    model = peft_model(bases[TIED], *folders)
    for module in model.modules():
        for number, weight in enumerate(weights.values()):
            if hasattr(module, "scale_layer") and str(number) in module.scaling:
                module.scaling[str(number)] *= weight
    assert_same(merged(bases[TIED], **weights), merged_tensors(model))


@pytest.mark.parametrize(
    ("shape", "options", "unties"),
    [
        (TIED, {"modules_to_save": ["lm_head"]}, True),
        (TIED, {"modules_to_save": ["embed_tokens"]}, True),
        (TIED, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
        (TIED, {"target_modules": ["q_proj", "embed_tokens"]}, True),
        (TIED, {"target_modules": ["q_proj", "lm_head"]}, True),
        (UNTIED, {"modules_to_save": ["lm_head"]}, False),
        (UNTIED, {"target_modules": ["embed_tokens", "lm_head"]}, False),
        (QWEN2, {}, False),
    ],
)
def test_head_and_embedding_compute_what_peft_computes(
    bases: dict[Shape, Path], tmp_path: Path, shape: Shape, options: dict[str, Any], unties: bool
) -> None:
    """PEFT's forward pass, not its merge: that adds the change of one of two tied matrices to both."""
    base = bases[shape]
    adapter = make_adapter(base, tmp_path, **options)
    checkpoint = open_checkpoint(str(base), adapters={str(adapter): 1.0})
    assert checkpoint.is_tied == (shape.is_tied and not unties)
    weights = load_weights(checkpoint, ANSWERS, CPU, torch.float32)
    ids = [3, 1, 4, 1, 5]
    with torch.inference_mode():
        logits = peft_model(base, adapter)(torch.tensor([ids])).logits[0, -1]
    assert_close(log_odds(checkpoint, weights, ids), [float(logits[5] - logits[9])])


def test_a_trained_score_row_is_the_head(bases: dict[Shape, Path], tmp_path: Path) -> None:
    """ms-swift and others train a causal base as a classifier of one label: only the adapter has the row."""
    base = bases[TIED]
    adapter = make_adapter(base, tmp_path, task="SEQ_CLS")
    checkpoint = open_checkpoint(str(base), adapters={str(adapter): 1.0})
    assert checkpoint.has_classifier
    weights = load_weights(checkpoint, ANSWERS, CPU, torch.float32)
    ids = [3, 1, 4, 1, 5]
    with torch.inference_mode():
        logits = peft_model(base, adapter, task="SEQ_CLS")(torch.tensor([ids])).logits
    assert_close(log_odds(checkpoint, weights, ids), [float(logits)])


def log_odds(checkpoint: Checkpoint, weights: Weights, ids: list[int]) -> list[float]:
    return reference_log_odds(Decoder(checkpoint.architecture, weights), [Segment.after(None, tuple(ids))])


def test_blocks_of_rows_are_merged_like_whole_tensors(
    bases: dict[Shape, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedding, whose columns are the product's rows, and DoRA, whose norms are those of whole rows."""
    options: dict[str, Any] = {"target_modules": ["embed_tokens", "o_proj"], "use_dora": True}
    with pytest.raises(CheckpointError, match="DoRA vector of another shape"):
        merged(bases[UNTIED], **{str(make_adapter(bases[UNTIED], tmp_path / "both", **options)): 1.0})
    for name, change in (("a", {"use_dora": False}), ("b", {"target_modules": ["o_proj"]})):
        adapter = str(make_adapter(bases[UNTIED], tmp_path / name, **options | change))
        whole = merged(bases[UNTIED], **{adapter: 1.0})
        monkeypatch.setattr(tensors_module, "READ_BLOCK_BYTES", 5 * 48 * 4)
        assert_same(merged(bases[UNTIED], **{adapter: 1.0}), whole)
        monkeypatch.undo()


def test_a_narrow_base_is_rounded_once_after_the_merge(tmp_path: Path) -> None:
    base = make(tmp_path / "base", TIED, torch.bfloat16)
    adapter = make_adapter(base, tmp_path / "adapter")
    wide = merged_tensors(peft_model(base, adapter))  # PEFT's model is fp32 here
    source = open_checkpoint(str(base), adapters={str(adapter): 1.0}).open_tensors()
    name = "model.layers.1.mlp.down_proj.weight"
    narrow = read_tensor(source, name, torch.bfloat16, CPU)
    assert (narrow.float() - wide[name]).abs().max() <= wide[name].abs().max() * 2**-8
    assert source.dtype(name) is torch.float32
    assert source.dtype("model.norm.weight") is torch.bfloat16


# ------------------------------------------------------------------------------------------- finding


def test_an_adapter_as_the_model_loads_its_base(bases: dict[Shape, Path], adapter: Path) -> None:
    checkpoint = open_checkpoint(str(adapter))
    assert (checkpoint.name, checkpoint.folder) == (str(adapter), bases[TIED])
    assert [one.info for one in checkpoint.adapters] == [
        {"model": str(adapter), "revision": None, "weight": 1.0, "base": str(bases[TIED])}
    ]
    source = checkpoint.open_tensors()
    found = {name: read_tensor(source, name, torch.float32, CPU) for name in source.shapes}
    assert_same(found, merged(bases[TIED], **{str(adapter): 1.0}))


def test_more_adapters_are_added_to_an_adapter_as_the_model(
    bases: dict[Shape, Path], adapter: Path, tmp_path: Path
) -> None:
    second = make_adapter(bases[TIED], tmp_path, seed=1)
    checkpoint = open_checkpoint(str(adapter), adapters={str(second): 0.5})
    assert [(one.name, one.weight) for one in checkpoint.adapters] == [
        (str(adapter), 1.0),
        (str(second), 0.5),
    ]
    source = checkpoint.open_tensors()
    found = {name: read_tensor(source, name, torch.float32, CPU) for name in source.shapes}
    assert_same(found, merged(bases[TIED], **{str(adapter): 1.0, str(second): 0.5}))


def test_adapters_and_bases_may_come_from_the_hub(
    bases: dict[Shape, Path], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base at the revision that the adapter names."""
    asked: list[Any] = []
    change_config(copied(adapter, tmp_path / "0a0a"), base_model_name_or_path="org/base", revision="v2")

    def download(model: str, revision: str | None, files: list[str], hub: str) -> tuple[Path, str]:
        asked.append((model, revision, hub, "config.json" in files))
        folder = tmp_path / "0a0a" if model == "org/adapter" else bases[TIED]
        return folder, folder.name

    monkeypatch.setattr("qwen_rerank_plugins.core.checkpoints.folder.download", download)
    assert open_checkpoint("org/adapter", "v1", hub="modelscope").adapters[0].revision == "0a0a"
    assert open_checkpoint("org/base", "v3", {"org/adapter": 2.0}, "modelscope").adapters[0].weight == 2.0
    assert asked == [
        *(("org/adapter", "v1", "modelscope", True), ("org/base", "v2", "modelscope", True)),
        *(("org/base", "v3", "modelscope", True), ("org/adapter", None, "modelscope", False)),
    ]


@pytest.mark.parametrize(
    ("base", "warns"),
    [
        ("Qwen/Qwen3-0.6B", True),
        ("qwen/qwen3-reranker-0.6b", False),
        ("unsloth/Qwen3-Reranker-0.6B-bnb-4bit", False),
        ("./local", False),
        ("/models/base", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("named_by", ["hub", "config"])
def test_an_adapter_of_a_model_with_another_name_is_warned_about(
    base: str | None,
    warns: bool,
    named_by: str,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Qwen3-0.6B and Qwen3-Reranker-0.6B have the same sizes, so only their names differ."""
    folder = change_config(copied(adapter, tmp_path / "adapter"), base_model_name_or_path=base)
    model, name = make(tmp_path / "base", TIED), "Qwen/Qwen3-Reranker-0.6B"
    if named_by == "config":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"_name_or_path": name}))
        name = str(model)
    monkeypatch.setattr("qwen_rerank_plugins.core.checkpoints.folder.download", lambda *_: (model, "0a0a"))
    open_checkpoint(name, adapters={str(folder): 1.0})
    assert ("was trained on 'Qwen/Qwen3-0.6B', but is merged into 'Qwen/Qwen3-Rer" in caplog.text) is warns
    assert bool(caplog.messages) is warns


def test_a_base_that_is_not_found_says_how_to_name_it(adapter: Path, tmp_path: Path) -> None:
    folder = change_config(copied(adapter, tmp_path), base_model_name_or_path="/nowhere/base")
    with pytest.raises(CheckpointNotFoundError, match="set `model` to that model, and `adapters` to"):
        open_checkpoint(str(folder))


def test_an_adapter_of_an_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    folder = copied(adapter, tmp_path)
    change_config(folder, base_model_name_or_path=str(folder))
    with pytest.raises(CheckpointFormatError, match="which is an adapter itself"):
        open_checkpoint(str(folder))


def test_the_fingerprint_knows_adapters_weights_and_order(
    bases: dict[Shape, Path], adapter: Path, tmp_path: Path
) -> None:
    base, second = str(bases[TIED]), str(make_adapter(bases[TIED], tmp_path, seed=1))

    def of(**adapters: float) -> str:
        return fingerprint(open_checkpoint(base, adapters=adapters))

    first = str(adapter)
    seen = [of(), of(**{first: 1.0}), of(**{first: 0.5}), of(**{second: 1.0})]
    seen += [of(**{first: 1.0, second: 1.0}), of(**{second: 1.0, first: 1.0})]
    change_config(tmp_path, lora_alpha=7)
    seen.append(of(**{second: 1.0}))
    save_file(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")
    seen.append(of(**{second: 1.0}))
    assert len(set(seen)) == len(seen)


# ------------------------------------------------------------------------------------------- refused


def copied(adapter: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((adapter / name).read_bytes())
    return folder


def change_config(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peft_type": "LOHA"}, "is of the type 'LOHA'; only LORA is supported"),
        (
            {"init_lora_weights": "pissa_niter_16"},
            "was initialised by 'pissa_niter_16', which changes the base",
        ),
        ({"init_lora_weights": "olora"}, "initialised by 'olora'"),
        ({"lora_bias": True}, "sets lora_bias, which is not supported"),
        ({"use_qalora": True, "arrow_config": {"top_k": 3}}, "sets arrow_config, use_qalora, which"),
        ({"trainable_token_indices": [1]}, "sets trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "sets layer_replication"),
        ({"an_invention_of_tomorrow": "on"}, "sets an_invention_of_tomorrow"),
        ({"r": 8}, "has the rank 4 in model.layers.0.mlp.down_proj, which its adapter_config.json does not"),
        ({"rank_pattern": [4]}, r"has the rank_pattern \[4\]; it must be an object"),
        ({"lora_alpha": "many"}, "must hold finite numbers by plain patterns"),
        ({"lora_alpha": float("inf")}, "must hold finite numbers"),
        ({"lora_alpha": None}, "must hold finite numbers"),
        ({"alpha_pattern": {"(": 1}}, "must hold finite numbers by plain patterns"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "must hold finite numbers by plain patterns"),
        ({"alpha_pattern": {".*" * 9: 1}}, "must hold finite numbers by plain patterns"),
        ({"alpha_pattern": 3}, "has the alpha_pattern 3; it must be an object"),
    ],
)
def test_what_is_not_merged_exactly_is_refused_by_name(
    bases: dict[Shape, Path], adapter: Path, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    folder = change_config(copied(adapter, tmp_path), **changes)
    started = time.process_time()
    with pytest.raises(CheckpointError, match=complaint):
        merged(bases[TIED], **{str(folder): 1.0})
    assert time.process_time() - started < 2


Q = "base_model.model.model.layers.0.self_attn.q_proj."
Damage = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def with_tensor(name: str, *size: int, dtype: torch.dtype = torch.float32) -> Damage:
    return lambda tensors: tensors | {name: torch.zeros(size, dtype=dtype)}


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda t: {n: x for n, x in t.items() if n != Q + "lora_A.weight"}, r"lacks \S+q_proj\.lora_A;"),
        (lambda t: {n: x for n, x in t.items() if n != Q + "lora_B.weight"}, r"lacks \S+q_proj\.lora_B;"),
        (with_tensor(Q + "lora_A.weight", 0, 48), r"the shapes \(0, 48\) and .* with a rank of at least 1"),
        (with_tensor(Q + "lora_A.weight", 3, 48), r"the shapes \(3, 48\) and \(64, 4\)"),
        (with_tensor(Q + "lora_A.weight"), r"the shapes \(\) and"),
        (with_tensor(Q + "lora_A.weight", 4, 48, 1), r"the shapes \(4, 48, 1\)"),
        (
            with_tensor(Q + "lora_A.weight", 4, 64),
            r"q_proj.weight of the shape \(64, 64\), which has the shape \(64, 48\)",
        ),
        (with_tensor(Q + "lora_B.weight", 96, 4), r"of the shape \(96, 48\), which has the shape \(64, 48\)"),
        (with_tensor(Q + "lora_A.weight", 4, 48, dtype=torch.int8), "stored as I8"),
        (with_tensor(Q + "lora_magnitude_vector", 63), "has a DoRA vector of another shape"),
        (with_tensor(Q + "bias", 64), r"q_proj\.bias of the shape \(64,\), which the model does not have"),
        (with_tensor("base_model.model.score.weight", 2, 48), r"score.weight has the shape \(2, 48\)"),
        (with_tensor("base_model.model.model.norm.weight", 47), r"norm\.weight of the shape \(47,\)"),
        (with_tensor("model.norm.weight", 48), "holds 'model.norm.weight', which is not a tensor of a LoRA"),
        (
            with_tensor(Q + "lora_B.bias", 64),
            r"lora_B\.bias of the shape \(64,\), which the model does not have",
        ),
        (with_tensor("base_model.model.../../x.weight", 1), "which is not a tensor of a LoRA adapter"),
        (with_tensor(Q + "token_adapter.trainable_tokens_delta", 1), "is not a tensor of a LoRA adapter"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    bases: dict[Shape, Path], adapter: Path, tmp_path: Path, damage: Damage, complaint: str
) -> None:
    folder = copied(adapter, tmp_path)
    tensors = damage(load_file(folder / "adapter_model.safetensors"))
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=complaint):
        load_weights(
            open_checkpoint(str(bases[TIED]), adapters={str(folder): 1.0}), ANSWERS, CPU, torch.float32
        )


def test_an_adapter_of_another_base_is_refused_with_its_name(adapter: Path, tmp_path: Path) -> None:
    for shape in (Shape(hidden_size=64), Shape(num_layers=2)):
        other = make(tmp_path, shape)
        with pytest.raises(CheckpointError, match=r"trained on '\S+', does not fit this model: it changes"):
            merged(other, **{str(adapter): 1.0})


def test_weights_are_for_sums_alone(bases: dict[Shape, Path], tmp_path: Path) -> None:
    for name, options in (("a", {"modules_to_save": ["lm_head"]}), ("b", {"use_dora": True})):
        adapter = str(make_adapter(bases[UNTIED], tmp_path / name, **options))
        with pytest.raises(
            CheckpointFormatError, match=r"has the weight 0\.5, but replaces or scales whole tensors"
        ):
            merged(bases[UNTIED], **{adapter: 0.5})


def test_two_adapters_that_exclude_each_other_are_refused(bases: dict[Shape, Path], tmp_path: Path) -> None:
    heads = [make_adapter(bases[UNTIED], tmp_path / n, modules_to_save=["lm_head"]) for n in "ab"]
    with pytest.raises(CheckpointError, match=r"both replace lm_head\.weight; use one of them"):
        merged(bases[UNTIED], **{str(folder): 1.0 for folder in heads})
    scaled = [make_adapter(bases[UNTIED], tmp_path / n, use_dora=n == "c") for n in "cd"]
    with pytest.raises(CheckpointError, match="uses DoRA, which cannot be added to other adapters"):
        merged(bases[UNTIED], **{str(folder): 1.0 for folder in scaled})


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("adapter_model.safetensors", None, r"has no adapter_model\.safetensors$"),
        ("adapter_model.safetensors", b"version https://git-lfs", "is a Git LFS pointer"),
        ("adapter_model.safetensors", b"\x00" * 7, "is not a valid safetensors file"),
        ("adapter_model.safetensors", (1 << 63).to_bytes(8, "little") + b"{}", "is not a valid safetensors"),
        ("adapter_config.json", None, r"it has no adapter_config\.json"),
        ("adapter_config.json", b"{", r"adapter_config\.json' cannot be read"),
        ("adapter_config.json", b"[" * 100_000, r"adapter_config\.json' cannot be read"),
    ],
)
def test_missing_and_broken_files_are_refused(
    bases: dict[Shape, Path], adapter: Path, tmp_path: Path, name: str, content: bytes | None, complaint: str
) -> None:
    folder = copied(adapter, tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=complaint):
        merged(bases[TIED], **{str(folder): 1.0})


def test_a_pickled_adapter_is_refused(bases: dict[Shape, Path], adapter: Path, tmp_path: Path) -> None:
    folder = copied(adapter, tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointFormatError, match=r"adapter_model\.bin is a pickle, which can run code"):
        merged(bases[TIED], **{str(folder): 1.0})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["peft_type", "r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "init_lora_weights"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(
        st.sampled_from([*KEYS, "base_model_name_or_path", "revision"]), JSON, max_size=3
    ),
    cut=st.integers(0, 4000) | st.none(),
    flips=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4),
)
def test_no_damage_raises_anything_but_a_checkpoints_error(
    bases: dict[Shape, Path],
    adapter: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    cut: int | None,
    flips: list[tuple[int, int]],
) -> None:
    folder = change_config(copied(adapter, tmp_path), **changes)
    content = bytearray((folder / "adapter_model.safetensors").read_bytes()[:cut])
    for place, value in flips:
        content[min(place, len(content)) : place + 1] = bytes([value])
    (folder / "adapter_model.safetensors").write_bytes(content)
    with contextlib.suppress(CheckpointError):
        merged(bases[TIED], **{str(folder): 1.0})
