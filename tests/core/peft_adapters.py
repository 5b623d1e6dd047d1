"""Adapters made and merged by PEFT itself, with random numbers instead of training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@contextmanager
def without_warnings() -> Iterator[None]:
    """PEFT warns of tied matrices and of what it saves beside them, which is under test here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make_adapter(base: Path, folder: Path, *, seed: int = 0, task: str = "CAUSAL_LM", **options: Any) -> Path:
    """Save an adapter of a base whose every trained number is random."""
    from peft import LoraConfig, get_peft_model

    settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"} | options
    with without_warnings():
        model: Any = get_peft_model(base_model(base, task), LoraConfig(task_type=task, **settings))
        draw = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
            elif parameter.requires_grad:
                parameter.data.mul_(1.3)
        model.save_pretrained(folder)
    return folder


def base_model(base: Path, task: str = "CAUSAL_LM") -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if task == "CAUSAL_LM":
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32, num_labels=1)


def peft_model(base: Path, *adapters: Path, task: str = "CAUSAL_LM") -> Any:
    """The base with adapters on it, as PEFT loads them, all of them active."""
    from peft import PeftModel

    with without_warnings():
        model: Any = PeftModel.from_pretrained(base_model(base, task), adapters[0], adapter_name="0")
        for number, adapter in enumerate(adapters[1:], 1):
            model.load_adapter(adapter, adapter_name=str(number))
        model.base_model.set_adapter([str(number) for number in range(len(adapters))])
        return model.eval()


def merged_tensors(model: Any) -> dict[str, Tensor]:
    """What PEFT merges, by the names of transformers."""
    with without_warnings():
        return dict(model.merge_and_unload().state_dict())
