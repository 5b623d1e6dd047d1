"""Command line: ``python -m scripts.train_demo --work DIR --minutes 90``.

After a first call has downloaded the text, two processes share the work with ``torchrun --nproc-per-node 2 -m
scripts.train_demo --threads 1 ...``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from scripts.train_demo import distributed
from scripts.train_demo.checkpoint import export
from scripts.train_demo.corpus import Corpus
from scripts.train_demo.curriculum import Curriculum
from scripts.train_demo.network import build_model
from scripts.train_demo.sources import Document, load_documents
from scripts.train_demo.tokenizer import train_tokenizer
from scripts.train_demo.trainer import Settings, Trainer, mean_reciprocal_rank


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.train_demo", description="Train the demo checkpoint."
    )
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the corpus, the state and the checkpoint",
    )
    parser.add_argument(
        "--minutes", type=float, default=90.0, help="total training time, earlier runs included"
    )
    parser.add_argument("--resume", action="store_true", help="continue from DIR/state.pt")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    parser.add_argument("--threads", type=int, default=2, help="threads per process")
    return parser


def _texts(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        yield document.title
        yield from document.sentences


def _tokenizer(work: Path, documents: list[Document]) -> Tokenizer:
    path = work / "tokenizer.json"
    if not path.exists():
        train_tokenizer(_texts(documents)).save(str(path))
    return Tokenizer.from_file(str(path))


def main() -> None:
    """Download the text if it is missing, train, and write the best checkpoint to ``DIR/checkpoint``."""
    arguments = _parser().parse_args()
    level = logging.INFO if distributed.initialize() == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(arguments.threads)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    documents = load_documents(work)
    tokenizer = _tokenizer(work, documents)
    corpus = Corpus(documents, tokenizer)
    curriculum = Curriculum(corpus, tokenizer.get_vocab_size())
    held_out = {language: curriculum.held_out(language) for language in ("en", "zh")}
    (true_id,), (false_id,) = corpus.encode("yes"), corpus.encode("no")
    settings = Settings(seed=arguments.seed, minutes=arguments.minutes)
    model = build_model(tokenizer.get_vocab_size(), arguments.seed)
    trainer = Trainer(model, curriculum.lessons(), true_id, false_id, settings)
    if arguments.resume:
        trainer.load_state(work / "state.pt")

    def evaluate(current: Qwen3ForCausalLM) -> dict[str, float]:
        own = slice(distributed.rank(), None, distributed.world_size())
        parts = [mean_reciprocal_rank(current, some[own], true_id, false_id) for some in held_out.values()]
        return dict(zip(held_out, distributed.average([], parts), strict=True))

    def save(current: Trainer, *, best: bool) -> None:
        if distributed.rank() == 0:
            current.save_state(work / "state.pt")
        if distributed.rank() == 0 and best:
            export(current.model, tokenizer, work / "checkpoint")

    trainer.train(evaluate, save)
    distributed.shutdown()


if __name__ == "__main__":
    main()
