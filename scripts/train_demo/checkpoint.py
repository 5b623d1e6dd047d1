"""Write the checkpoint folder: weights in half precision, tokenizer, recipe record."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from scripts.train_demo.tokenizer import recipe_record, write_tokenizer

LOG_ODDS_SCALE = 0.25
"""Factor of the written model's log-odds: training leaves them so large that most probabilities round to 0 or 1.

A power of two: the order of any two scores stays, to the last bit.
"""


def export(model: Qwen3ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the checkpoint to ``folder``; each file appears once it is complete.

    The final norm is scaled by `LOG_ODDS_SCALE`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        new = Path(name)
        config = model.config.to_dict() | {"architectures": ["Qwen3ForCausalLM"], "dtype": "float16"}
        config.pop("_name_or_path", None)
        (new / "config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        weights = {
            key: value.detach().to(torch.float16).contiguous()
            for key, value in model.state_dict().items()
            if key != "lm_head.weight"  # tied to the embeddings
        }
        weights["model.norm.weight"] = weights["model.norm.weight"] * LOG_ODDS_SCALE
        save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
        write_tokenizer(tokenizer, new)
        record = json.dumps(recipe_record(tokenizer), indent=2) + "\n"
        (new / "rerank_recipe.json").write_text(record, encoding="utf-8")
        for path in sorted(new.iterdir()):
            shutil.copyfile(path, folder / f".{path.name}.new")
            (folder / f".{path.name}.new").replace(folder / path.name)
