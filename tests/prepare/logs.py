"""A shop's own log as a new user would bring it: odd names, semicolons, missing values, milliseconds, Y and N."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HEADER = "row;Customer No;land;Product!;Category Name;price;tags;ts_ms;channel;outcome;dwell sec;always"


def write_shop(path: Path, rows: int = 1500, seed: int = 0) -> Path:
    """Shuffled rows; clicks are likelier for shoes; dwell follows the click; some times and labels are missing."""
    r = np.random.default_rng(seed)
    kinds = ["Shoes", "Hats", "Bags"]
    price = [f"{x:.2f}".replace(".", ",") for x in r.lognormal(3, 1, 60)]
    tags = ["|".join(r.permutation(["new", "sale", "eco", "kids"])[: k % 4]) for k in range(60)]
    lines = []
    for n in range(rows):
        user, item = int(r.integers(0, 40)), int(r.integers(0, 60))
        yes = r.random() < (0.7 if item % 3 == 0 else 0.2)
        lines.append(
            [
                str(n + 1),
                f"u_{user * 7919:x}",
                ["DE", "FR", ""][user % 3],
                f"SKU-{item:03d}",
                kinds[item % 3],
                price[item],
                tags[item],
                "" if r.random() < 0.01 else str(1_650_000_000_000 + n * 61_234),
                str(r.choice(["web", "app", "NA"])),
                "" if r.random() < 0.02 else "Y" if yes else "N",
                f"{r.random() * 30 * (1 + 9 * yes):.1f}".replace(".", ","),
                "const",
            ]
        )
    text = "\n".join([HEADER, *(";".join(lines[k]) for k in r.permutation(rows))])
    path.write_text(text + "\n", encoding="utf-8")
    return path
