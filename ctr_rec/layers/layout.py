"""What lies along the axes of a parameter: which input of the model each column belongs to.

A model that grows by an input gets wider layers. Old columns must then find their new places by name, never by
position; a checkpoint stores these layouts beside its arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

# (name, width) of each stretch along one axis, in order; a name stands once.
Layout = tuple[tuple[str, int], ...]
# One entry per axis of a parameter; None where no input decides how long it is.
Axes = tuple[Layout | None, ...]


def size(layout: Layout) -> int:
    """Length of the axis."""
    return sum(width for _, width in layout)


def named(name: str, layout: Layout) -> Layout:
    """The same stretches in another role: a candidate's item features are not those of its history."""
    return tuple((f"{name}/{part}", width) for part, width in layout)


def within(path: str, axes: Mapping[str, Axes]) -> dict[str, Axes]:
    """Axes of a submodule's parameters under the names they have in its parent."""
    return {f"{path}.{name}": of_parameter for name, of_parameter in axes.items()}
