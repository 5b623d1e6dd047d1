"""Calibration files: the slope and offset that turn a model's log-odds into probabilities, per instruction.

Reads files and applies them to scores. `evaluation` fits them; nothing here knows a model or judged data.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qwen_rerank_plugins.errors import ConfigurationError
from qwen_rerank_plugins.types import PairScore, ScoreRequest, logistic

__all__ = ["MAX_BYTES", "MAX_NUMBER", "Calibration", "InstructionFit", "load_calibration"]

MAX_BYTES = 8 << 20
MAX_NUMBER = 1e6
"""Largest slope and offset: their products with log-odds stay far below what a float can hold."""

_Count = Annotated[int, Field(ge=1, lt=1 << 53)]
_Name = Annotated[str, Field(min_length=1, max_length=4096)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class InstructionFit(_Record):
    """The fit of one instruction: probability = logistic(slope · log-odds + offset).

    Attributes:
        instruction: The instruction; None for the model's default.
        slope: Positive, so that the order of documents stays.
        offset: Added to the product.
        num_pairs: Pairs that it was fitted on.
        num_relevant: Relevant ones among them.
        num_queries: Queries of the pairs.
    """

    instruction: str | None
    slope: float = Field(gt=0, le=MAX_NUMBER)
    offset: float = Field(ge=-MAX_NUMBER, le=MAX_NUMBER)
    num_pairs: _Count
    num_relevant: _Count
    num_queries: _Count


class Calibration(_Record):
    """The contents of a calibration file, apart from its figures on held-out folds.

    Attributes:
        format: Marks the file.
        version: Version of the format.
        model: The model's name where it was fitted.
        fingerprint: Digest of the model's files.
        default_instruction: The instruction that the model uses for a request without one, or None.
        relevant_grade: Lowest grade that counted as relevant.
        fits: One fit per instruction.
    """

    format: Literal["qwen-rerank-calibration"]
    version: Literal[1]
    model: _Name
    fingerprint: _Name
    default_instruction: str | None
    relevant_grade: _Count
    fits: list[InstructionFit] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_fits(self) -> Self:
        if len(self._by_instruction) < len(self.fits):
            raise ValueError("two fits have the same instruction")
        return self

    @cached_property
    def _by_instruction(self) -> dict[str | None, InstructionFit]:
        return {self.instruction_key(fit.instruction): fit for fit in self.fits}

    def instruction_key(self, instruction: str | None) -> str | None:
        """Return the instruction, or None if it is the model's default."""
        return None if instruction == self.default_instruction else instruction

    def info(self) -> dict[str, Any]:
        """Return the fits as plain JSON types."""
        return {"fits": [fit.model_dump() for fit in self.fits]}

    def apply(self, requests: Sequence[ScoreRequest], scores: Sequence[PairScore]) -> list[PairScore]:
        """Return the scores with calibrated probabilities, and whether each one is calibrated. Log-odds stay.

        A probability stays as it is if its instruction has no fit, or if the scorer returned a score without log-odds
        in the same call: the order must stay. Scores that are marked already are returned unchanged.

        Args:
            requests: The scored pairs.
            scores: One score per request.
        """
        has_log_odds = all(score.log_odds is not None for score in scores)
        calibrated = []
        for request, score in zip(requests, scores, strict=True):
            if score.calibrated is None:
                fit = self._by_instruction.get(self.instruction_key(request.instruction))
                probability = score.relevance_score
                if fit is not None and has_log_odds and score.log_odds is not None:
                    probability = logistic(fit.slope * score.log_odds + fit.offset)
                is_calibrated = fit is not None and has_log_odds
                score = replace(score, relevance_score=probability, calibrated=is_calibrated)  # noqa: PLW2901
            calibrated.append(score)
        return calibrated


def load_calibration(path: str | os.PathLike[str], *, fingerprint: str | None = None) -> Calibration:
    """Read a calibration file.

    Args:
        path: The file.
        fingerprint: That of the model to calibrate; None for any.

    Raises:
        ConfigurationError: The file cannot be read, is damaged, is not a calibration file, or is of another model.
    """
    name = os.fspath(path)
    try:
        value = json.loads(_read(Path(path)), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        calibration = Calibration.model_validate(value)
    except OSError as error:
        message = f"calibration file cannot be read: {name!r}: {error.strerror}"
        raise ConfigurationError(message) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        hint = "write one with `qwen-rerank evaluate --calibrate`"
        message = f"calibration file is not valid: {name!r}: {place[:100]}: {first['msg']}; {hint}"
        raise ConfigurationError(message) from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigurationError(f"calibration file is not valid JSON: {name!r}: {reason}") from None
    if fingerprint not in {None, calibration.fingerprint}:
        message = f"calibration file is of another model: {name!r} was fitted for {calibration.model!r}"
        raise ConfigurationError(f"{message}; fit one for this model with `qwen-rerank evaluate --calibrate`")
    return calibration


def _read(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    return content.decode("utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is repeated")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
