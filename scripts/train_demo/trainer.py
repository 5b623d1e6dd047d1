"""The training loop: lessons, losses, the learning rate's course, and a state that can be continued."""

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
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor
from transformers import Qwen3ForCausalLM

from scripts.train_demo import together
from scripts.train_demo.forward import log_odds, packed_hidden_states
from scripts.train_demo.packing import PackedBatch, QueryList, pack

logger = logging.getLogger(__name__)

_AVERAGING: Final = 0.98
_POSITIVE_WEIGHT: Final = 8.0
"""About one document token in nine occurs in the query."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run depends on besides its data.

    Attributes:
        seed: Of the weights and of all chance.
        minutes: Training time; the learning rate falls towards its end.
        learning_rate: The highest one.
        warmup_steps: Steps until it is reached.
        cooling: The last part of the time, in which it falls to a twentieth.
        pairs_weight: Of the loss of single pairs, which puts zero between relevant and not.
        evaluate_every_s: Seconds between two looks at the held-out lists.
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
    """Lists that share a prefix: ids before the query, the lists, ids after each document."""

    prefix: Sequence[int]
    lists: Sequence[QueryList]
    suffix: Sequence[int]


@dataclass(frozen=True, slots=True)
class Lesson:
    """One part of the curriculum, over after ``max_steps`` or once the mean accuracy reaches ``enough``."""

    name: str
    batch: Callable[[random.Random], Batch]
    max_steps: float = math.inf
    enough: float = math.inf


class Save(Protocol):
    """What a run does with its state after each look at the held-out lists."""

    def __call__(self, current: Trainer, *, best: bool) -> None:
        """Keep the state; ``best`` says that none before it was as good."""


@dataclass(slots=True)
class Progress:
    """Where a run stands; goes into the saved state."""

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
    """Trains a model through its lessons and keeps the state that is best on held-out lists.

    Args:
        model: Changed in place.
        lessons: In their order.
        true_id: Id of the token that means relevant.
        false_id: Id of the other.
        settings: See there.
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
        """Trains until the time is up.

        Args:
            evaluate: Gives the figures of the held-out lists; their mean decides which state is best.
            save: Called after each look with this trainer and whether its state is the best so far.
        """
        looked_s = self.progress.elapsed_s
        while self.progress.elapsed_s < self._settings.minutes * 60:
            self.step()
            if self.progress.step % 20 == 0:
                self._report()
            if self.progress.elapsed_s - looked_s > self._settings.evaluate_every_s:
                looked_s = self.progress.elapsed_s
                self._look(evaluate, save)
        self._look(evaluate, save)

    def step(self) -> float:
        """One optimizer step on one batch; returns the lists' loss (without the auxiliary one)."""
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
        loss, occurrence, accuracy, taken_s = together.average(self._weights, figures)
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
        looked_at = F.rms_norm(middle[batch.labelled], middle.shape[-1:])
        occurrence = F.binary_cross_entropy_with_logits(
            self._occurrence(looked_at)[:, 0], batch.occurs, pos_weight=torch.tensor(_POSITIVE_WEIGHT)
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

    def _look(self, evaluate: Callable[[Qwen3ForCausalLM], dict[str, float]], save: Save) -> None:
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
        """Writes everything a later run needs to go on."""
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
        """Goes on where ``save_state`` was."""
        state: dict[str, Any] = torch.load(path, weights_only=False)
        self.model.load_state_dict(state["model"])
        self._occurrence.load_state_dict(state["occurrence"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        if together.rank() == 0:
            self._rng.setstate(state["rng"])
        else:
            self._rng = self._randomness()

    def _randomness(self) -> random.Random:
        """A generator of this process's own, so that no two processes see the same lists."""
        return random.Random(f"{self._settings.seed}, {together.rank()}, {self.progress.step}")


@torch.no_grad()
def mean_reciprocal_rank(
    model: Qwen3ForCausalLM, batches: Sequence[Batch], true_id: int, false_id: int
) -> float:
    """Mean of 1 / rank of the relevant document; a tie counts against it."""
    reciprocal: list[float] = []
    for batch in batches:
        packed = pack(batch.prefix, batch.lists, batch.suffix)
        scores = log_odds(model, packed_hidden_states(model, packed)[1], packed, true_id, false_id)
        rows = scores.view(len(batch.lists), -1)
        reciprocal += (1.0 / (rows >= rows[:, :1]).sum(1)).tolist()
    return sum(reciprocal) / len(reciprocal)
