"""Element-wise steps between two matrix multiplications: normalisation, rotary embedding, activation.

torch's `rms_norm` makes six passes over memory on a CPU. For CPUs this module has an implementation with two passes,
and one that fuses norm and rotary embedding of queries and keys; both compute in fp32 and agree with torch's up to
rounding. Everything else uses torch's. `kernels` has the same functions for CUDA; there, these are the reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

__all__ = ["RotaryCache", "apply_qk_norm_rope", "rms_norm", "swiglu_"]


class RotaryCache:
    """Cosines and signed sines of the rotary embedding at some positions, [tokens, 1, head_dim] each.

    The first half of a head is paired with the second; the sines of the first half are negated.
    """

    __slots__ = ("cos", "sin")

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos = cos
        self.sin = sin

    @classmethod
    def at(cls, positions: Tensor, inverse_frequencies: Tensor, dtype: torch.dtype) -> RotaryCache:
        """Return the rotary embedding at these positions; angles are computed in fp32."""
        angles = positions[:, None].float() * inverse_frequencies
        cos, sin = angles.cos(), angles.sin()
        return cls(
            torch.cat([cos, cos], -1).to(dtype)[:, None],
            torch.cat([-sin, sin], -1).to(dtype)[:, None],
        )

    def __getitem__(self, rows: slice | Tensor) -> RotaryCache:
        return RotaryCache(self.cos[rows], self.sin[rows])

    def scaled(self, weight: Tensor) -> RotaryCache:
        """Return the rotary embedding of heads that are multiplied by a weight [head_dim] first."""
        half = weight.shape[0] // 2
        return RotaryCache(self.cos * weight, self.sin * weight.roll(half))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension by its root mean square."""
    if _uses_torch_kernels(x):
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    wide = x.float()
    return (wide * _inverse_rms(wide, eps)).mul_(weight).to(x.dtype)


def apply_qk_norm_rope(
    x: Tensor, norm: Tensor | None, rotation: RotaryCache, eps: float, out: Tensor
) -> None:
    """Normalise each head, if it has a norm, and apply the rotary embedding.

    Args:
        x: [rows, heads * head_dim].
        norm: [head_dim], or None.
        rotation: The rotary embedding of the rows.
        eps: Epsilon of the norm.
        out: Like `x`; receives the result.
    """
    head_dim = rotation.cos.shape[-1]
    heads = x.view(x.shape[0], -1, head_dim)
    target = out.view(heads.shape)
    if _uses_torch_kernels(x):
        normed = heads if norm is None else F.rms_norm(heads, (head_dim,), norm, eps)
        _rotate(normed, rotation, target)
        return
    wide = heads.float()
    rotated = target if target.dtype is torch.float32 else torch.empty_like(wide)
    _rotate(wide, rotation if norm is None else rotation.scaled(norm), rotated)
    if norm is not None:
        rotated.mul_(_inverse_rms(wide, eps))
    if rotated is not target:
        target.copy_(rotated)


def swiglu_(gate_up: Tensor) -> Tensor:
    """Return SiLU of the first half of the columns times the second half; may overwrite its input."""
    gate, up = gate_up.chunk(2, -1)
    if _uses_torch_kernels(gate) or gate.dtype is not torch.float32:
        return F.silu(gate, inplace=True).mul_(up)
    # On a CPU torch's SiLU rounds the end of each thread's share differently from the rest; its exp does not.
    denominator = gate.neg().exp_().add_(1)
    return torch.div(gate, denominator, out=denominator).mul_(up)


def _uses_torch_kernels(x: Tensor) -> bool:
    return x.device.type != "cpu"


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """Return [..., 1]: one over the root mean square of the last dimension."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _rotate(heads: Tensor, rotation: RotaryCache, out: Tensor) -> None:
    half = heads.shape[-1] // 2
    torch.mul(heads, rotation.cos, out=out)
    out[..., :half].addcmul_(heads[..., half:], rotation.sin[..., :half])
    out[..., half:].addcmul_(heads[..., :half], rotation.sin[..., half:])
