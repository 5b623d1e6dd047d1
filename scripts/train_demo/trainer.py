"""The training loop: lessons, losses, learning-rate schedule, and resumable state."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor
from transformers import Qwen3ForCausalLM

from scripts.train_demo import distributed
from scripts.train_demo.forward import log_odds, packed_hidden_states
from scripts.train_demo.packing import PackedBatch, QueryList, pack

logger = logging.getLogger(__name__)

_AVERAGING: Final = 0.98
_POSITIVE_WEIGHT: Final = 8.0
"""About one document token in nine occurs in the query."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The hyperparameters of a run.

    Attributes:
        seed: Seed of the weights and the data.
        minutes: Training time; the learning rate decays towards its end.
        learning_rate: The peak learning rate.
        warmup_steps: Steps until the peak.
        cooling: Fraction of the time, at its end, in which the learning rate decays to a twentieth.
        pairs_weight: Weight of the loss of single pairs, which separates relevant and irrelevant documents at zero.
        evaluate_every_s: Seconds between two evaluations on the held-out lists.
    """

    seed: int = 0
    minutes: float = 60.0
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    cooling: float = 0.4
    pairs_weight: float = 0.1
    evaluate_every_s: float = 400.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Lists with a common prefix before each query and a common suffix after each document, as token ids."""

    prefix: Sequence[int]
    lists: Sequence[QueryList]
    suffix: Sequence[int]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A part of the curriculum; it ends after ``max_steps``, or when the mean accuracy reaches ``enough``."""

    name: str
    batch: Callable[[random.Random], Batch]
    max_steps: float = math.inf
    enough: float = math.inf


class Save(Protocol):
    """Saves the state of a run after each evaluation."""

    def __call__(self, current: Trainer, *, best: bool) -> None:
        """Save the state; ``best`` marks the best one so far."""


@dataclass(slots=True)
class Progress:
    """The progress of a run, which is part of the saved state."""

    step: int = 0
    elapsed_s: float = 0.0
    lesson: int = 0
    lesson_step: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    occurrence_loss: float = 0.0
    best: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains a model through its lessons and saves the state that is best on held-out lists.

    Args:
        model: The model, trained in place.
        lessons: The lessons in order.
        true_id: Id of the token that means relevant.
        false_id: Id of the other.
        settings: The hyperparameters.
    """

    def __init__(
        self,
        model: Qwen3ForCausalLM,
        lessons: Sequence[Lesson],
        true_id: int,
        false_id: int,
        settings: Settings,
    ) -> None:
        self.model = model
        self.progress = Progress()
        self._lessons = lessons
        self._settings = settings
        self._answers = (true_id, false_id)
        self._rng = self._randomness()
        torch.manual_seed(settings.seed)
        self._occurrence = torch.nn.Linear(model.config.hidden_size, 1)
        self._weights = [*model.parameters(), *self._occurrence.parameters()]
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=0.0, betas=(0.9, 0.98), weight_decay=0.05, fused=True
        )

    def train(self, evaluate: Callable[[Qwen3ForCausalLM], dict[str, float]], save: Save) -> None:
        """Train until the time is up.

        Args:
            evaluate: Returns the figures of the held-out lists; the best state has the highest mean.
            save: Called after each evaluation, with this trainer and whether its state is the best so far.
        """
        evaluated_s = self.progress.elapsed_s
        while self.progress.elapsed_s < self._settings.minutes * 60:
            self.step()
            if self.progress.step % 20 == 0:
                self._report()
            if self.progress.elapsed_s - evaluated_s > self._settings.evaluate_every_s:
                evaluated_s = self.progress.elapsed_s
                self._evaluate(evaluate, save)
        self._evaluate(evaluate, save)

    def step(self) -> float:
        """Run one optimizer step on one batch; return the loss of the lists, without the auxiliary loss."""
        start = time.monotonic()
        lesson = self._current_lesson()
        batch = lesson.batch(self._rng)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        lists_loss, occurrence_loss, accuracy = self._losses(
            pack(batch.prefix, batch.lists, batch.suffix), len(batch.lists)
        )
        self._optimizer.zero_grad()
        (lists_loss + occurrence_loss).backward()
        figures = [lists_loss.item(), occurrence_loss.item(), accuracy, time.monotonic() - start]
        loss, occurrence, accuracy, taken_s = distributed.average(self._weights, figures)
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self.progress.elapsed_s += taken_s
        self._count(loss, occurrence, accuracy)
        return loss

    def _losses(self, batch: PackedBatch, num_lists: int) -> tuple[Tensor, Tensor, float]:
        middle, final = packed_hidden_states(self.model, batch)
        scores = log_odds(self.model, final, batch, *self._answers).view(num_lists, -1)
        relevant = torch.zeros_like(scores)
        relevant[:, 0] = 1.0
        lists = F.cross_entropy(scores, relevant)
        pairs = F.binary_cross_entropy_with_logits(
            scores, relevant, pos_weight=torch.tensor(scores.shape[1] - 1.0)
        )
        labelled = F.rms_norm(middle[batch.labelled], middle.shape[-1:])
        occurrence = F.binary_cross_entropy_with_logits(
            self._occurrence(labelled)[:, 0], batch.occurs, pos_weight=torch.tensor(_POSITIVE_WEIGHT)
        )
        accuracy = (scores.argmax(1) == 0).float().mean().item()
        return lists + self._settings.pairs_weight * pairs, occurrence, accuracy

    def _current_lesson(self) -> Lesson:
        lesson = self._lessons[self.progress.lesson]
        over = self.progress.lesson_step >= lesson.max_steps or self.progress.accuracy >= lesson.enough
        if over and self.progress.lesson + 1 < len(self._lessons):
            logger.info("lesson %r is over after %d steps", lesson.name, self.progress.lesson_step)
            self.progress.lesson += 1
            self.progress.lesson_step = 0
            self.progress.accuracy = 0.0
        return self._lessons[self.progress.lesson]

    def _learning_rate(self) -> float:
        settings, done = self._settings, self.progress.elapsed_s / (self._settings.minutes * 60)
        warm = min(1.0, (self.progress.step + 1) / settings.warmup_steps)
        return settings.learning_rate * warm * min(1.0, max(0.05, (1.0 - done) / settings.cooling))

    def _count(self, loss: float, occurrence_loss: float, accuracy: float) -> None:
        progress = self.progress
        progress.step += 1
        progress.lesson_step += 1
        new = 1.0 - _AVERAGING if progress.step > 1 else 1.0
        progress.loss += new * (loss - progress.loss)
        progress.occurrence_loss += new * (occurrence_loss - progress.occurrence_loss)
        progress.accuracy += new * (accuracy - progress.accuracy)

    def _report(self) -> None:
        p, name = self.progress, self._lessons[self.progress.lesson].name
        logger.info(
            "%5.0f s, step %d, %s: loss %.3f, accuracy %.3f, occurrence %.3f, rate %.2e",
            p.elapsed_s, p.step, name, p.loss, p.accuracy, p.occurrence_loss, self._learning_rate(),
        )  # fmt: skip

    def _evaluate(self, evaluate: Callable[[Qwen3ForCausalLM], dict[str, float]], save: Save) -> None:
        figures = evaluate(self.model)
        mean = sum(figures.values()) / len(figures)
        best = mean > self.progress.best
        self.progress.best = max(mean, self.progress.best)
        self.progress.history.append(
            {"elapsed_s": self.progress.elapsed_s, "step": self.progress.step, **figures}
        )
        logger.info(
            "held out: %s%s",
            {name: round(value, 3) for name, value in figures.items()},
            " (best)" if best else "",
        )
        save(self, best=best)

    def save_state(self, path: Path) -> None:
        """Save everything that a later run needs to continue."""
        state = {
            "model": self.model.state_dict(),
            "occurrence": self._occurrence.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "progress": asdict(self.progress),
            "rng": self._rng.getstate(),
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load_state(self, path: Path) -> None:
        """Continue from the state of ``save_state``."""
        state: dict[str, Any] = torch.load(path, weights_only=False)
        self.model.load_state_dict(state["model"])
        self._occurrence.load_state_dict(state["occurrence"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        if distributed.rank() == 0:
            self._rng.setstate(state["rng"])
        else:
            self._rng = self._randomness()

    def _randomness(self) -> random.Random:
        """Return a generator for this process, so that no two processes draw the same lists."""
        return random.Random(f"{self._settings.seed}, {distributed.rank()}, {self.progress.step}")


@torch.no_grad()
def mean_reciprocal_rank(
    model: Qwen3ForCausalLM, batches: Sequence[Batch], true_id: int, false_id: int
) -> float:
    """Return the mean of 1 / rank of the relevant document, which comes last among ties."""
    reciprocal: list[float] = []
    for batch in batches:
        packed = pack(batch.prefix, batch.lists, batch.suffix)
        scores = log_odds(model, packed_hidden_states(model, packed)[1], packed, true_id, false_id)
        rows = scores.view(len(batch.lists), -1)
        reciprocal += (1.0 / (rows >= rows[:, :1]).sum(1)).tolist()
    return sum(reciprocal) / len(reciprocal)
