"""Activations that write where they are told, for the blocked path. Legend: see the package."""

from typing import Protocol

import torch
from torch import Tensor


class Activation(Protocol):
    """An activation with its derivative taken from what the forward kept."""

    def keep(self, pre: Tensor, kept: Tensor) -> None:
        """Write into `kept` what backward needs of the pre-activation (they may be one tensor)."""
        ...

    def value(self, kept: Tensor, out: Tensor) -> Tensor:
        """The activated tensor, from what was kept; `out` is scratch that may be used for it."""
        ...

    def backward(self, grad: Tensor, kept: Tensor, out: Tensor) -> None:
        """Write the gradient of the pre-activation into `out`, which may be `grad` or `kept` itself."""
        ...


class Relu:
    """Keeps the output: it is also the mask."""

    def keep(self, pre: Tensor, kept: Tensor) -> None:
        torch.clamp_min(pre, 0, out=kept)

    def value(self, kept: Tensor, out: Tensor) -> Tensor:
        return kept

    def backward(self, grad: Tensor, kept: Tensor, out: Tensor) -> None:
        torch.ops.aten.threshold_backward.grad_input(grad, kept, 0, grad_input=out)


class Silu:
    """Keeps the pre-activation: the output does not determine the derivative."""

    def keep(self, pre: Tensor, kept: Tensor) -> None:
        if kept is not pre:
            kept.copy_(pre)

    def value(self, kept: Tensor, out: Tensor) -> Tensor:
        return torch.ops.aten.silu.out(kept, out=out)

    def backward(self, grad: Tensor, kept: Tensor, out: Tensor) -> None:
        torch.ops.aten.silu_backward.grad_input(grad, kept, grad_input=out)


ACTIVATIONS: dict[str, Activation] = {"relu": Relu(), "silu": Silu()}
