"""Figures without a window, and where they are written."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctr_rec.errors import ConfigError

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#9c6b4e", "#a463f2")


def new_figure(width: float, height: float) -> Figure:
    """In inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def make_folder(out: Path) -> None:
    """Raises ConfigError when the folder, an option's, cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be made: {error.strerror}; choose another folder") from error


def save_figure(figure: Figure, out: Path, name: str) -> list[Path]:
    """Writes name.png and name.svg into a folder, the same bytes each time. Returns both."""
    files = [out / f"{name}.png", out / f"{name}.svg"]
    figure.savefig(files[0], dpi=130)
    figure.savefig(files[1], metadata={"Date": None})
    return files
