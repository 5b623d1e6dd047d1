"""OpenVINO through optimum-intel: the checkpoint as a classifier with one label, pairs sorted by length.

The classifier's one row is the difference of the rows of yes and no, so it computes nothing unneeded. The
conversion runs once, in the mode "prepare", and is kept.
"""

from __future__ import annotations

import math
import shutil
from typing import Any

import torch
from optimum.intel import OVModelForSequenceClassification
from transformers import AutoTokenizer, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from benchmarks.peers.runner import PREFIX, SUFFIX, Job, PairList, Scorer, body, main

PRECISION = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINO(Scorer):
    """The compiled classifier."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.num_threads)
        options = {
            "INFERENCE_PRECISION_HINT": PRECISION[job.dtype],
            "INFERENCE_NUM_THREADS": str(job.num_threads),
            "PERFORMANCE_HINT": "LATENCY",
        }
        if job.quantization == "int8":
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "1024"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(job.converted, padding_side="left")
        self.model: Any = OVModelForSequenceClassification.from_pretrained(job.converted, ov_config=options)

    def score(self, pairs: PairList, batch_size: int) -> list[float]:
        """Return P(yes) of each pair."""
        texts = [f"{PREFIX}{body(query, document)}{SUFFIX}" for query, document in pairs]
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        log_odds = [0.0] * len(rows)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = self.tokenizer.pad({"input_ids": [rows[index] for index in batch]}, return_tensors="pt")
            for index, value in zip(batch, self.model(**inputs).logits[:, 0].tolist(), strict=True):
                log_odds[index] = value
        return [1.0 / (1.0 + math.exp(-value)) for value in log_odds]


def prepare(job: Job) -> None:
    """Convert the checkpoint, unless that was done."""
    if (job.converted / "openvino_model.xml").exists():
        return
    classifier = job.converted.with_name(f"{job.converted.name}-classifier")
    _write_classifier(job, str(classifier))
    model = OVModelForSequenceClassification.from_pretrained(
        classifier, export=True, compile=False, load_in_8bit=job.quantization == "int8"
    )
    model.save_pretrained(job.converted)
    AutoTokenizer.from_pretrained(job.model).save_pretrained(job.converted)
    shutil.rmtree(classifier)


def _write_classifier(job: Job, folder: str) -> None:
    """The checkpoint with the one-row head that gives log-odds."""
    tokenizer: Any = AutoTokenizer.from_pretrained(job.model)
    causal: Any = Qwen3ForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    config = causal.config
    config.num_labels = 1
    config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    classifier: Any = Qwen3ForSequenceClassification(config)
    classifier.model = causal.model
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    head = causal.lm_head.weight.data
    classifier.score.weight.data = (head[yes] - head[no])[None].clone()
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(OpenVINO, prepare)
