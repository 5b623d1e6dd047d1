"""Several processes of one thread each, training one model: started by torchrun, or a single one without it.

One gradient a step is exchanged. On a busy machine that loses far less than two threads which wait for each
other hundreds of times a step. Knows nothing of what is trained.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def join() -> int:
    """Joins the other processes if torchrun started this one; gives its rank, 0 when it is alone."""
    if "RANK" not in os.environ:
        return 0
    dist.init_process_group("gloo")
    return dist.get_rank()


def leave() -> None:
    """Leaves the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@torch.no_grad()
def average(weights: Sequence[Tensor], figures: Sequence[float]) -> list[float]:
    """Replaces the weights' gradients by their mean over the processes, and gives the mean of each figure."""
    if not dist.is_initialized():
        return list(figures)
    gradients = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights]
    flat = torch.cat([torch.tensor(figures), *(gradient.flatten() for gradient in gradients)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([len(figures), *(weight.numel() for weight in weights)])
    for weight, part in zip(weights, parts[1:], strict=True):
        weight.grad = part.view_as(weight)
    averages: list[float] = parts[0].tolist()
    return averages
