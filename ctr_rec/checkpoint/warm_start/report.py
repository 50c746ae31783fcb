"""What a warm start did, table by table: printed, and kept in the run as warm-start.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctr_rec.checkpoint.warm_start.dense import DenseReport
from ctr_rec.config import Config

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

FILE = "warm-start.json"


class TableReport(Config):
    """One table. Shares are of training occurrences, None where nobody counted.

    matched, new: rows of ours, row 0 aside. dropped: rows of the source that no id of ours led to. seen_unknown: share
    of occurrences that fall into row 0. dropped_share: of the source's own counts. dim, dtype: stored. change: of width
    or dtype. new_rows, optimizer_state, row_zero: what was done, in words. rms: of matched rows, as written; None in a
    dry run. left_alone: why the table keeps its initial values.
    """

    table: str
    rows: int
    source: str = ""
    ids: str = ""
    source_rows: int = 0
    matched: int = 0
    new: int = 0
    dropped: int = 0
    seen_matched: float | None = None
    seen_new: float | None = None
    seen_unknown: float | None = None
    dropped_share: float | None = None
    dim: int = 0
    dtype: str = ""
    change: str = ""
    row_zero: str = ""
    new_rows: str = ""
    optimizer_state: str = ""
    rms: float | None = None
    left_alone: str = ""


class WarmStartReport(Config):
    """The whole. trained_until: in our log's unit, None where unknown. dry_run: nothing was written."""

    source: str
    kind: str
    step: int | None = None
    trained_until: int | None = None
    dry_run: bool = False
    tables: tuple[TableReport, ...] = ()
    dense: DenseReport = DenseReport(rule="none")
    warnings: tuple[str, ...] = ()

    def table(self, name: str) -> TableReport:
        return next(t for t in self.tables if t.table == name)

    def print(self, console: Console) -> None:
        console.print(self.rich())
        for line in self.lines():
            console.print(line, highlight=False, soft_wrap=True, markup=False)

    def rich(self) -> RenderableType:
        """Numbers by table; narrow enough for a terminal of 80 columns."""
        from rich.table import Table

        title = f"warm start from {self.source} ({self.kind})" + (", dry run" if self.dry_run else "")
        shown = Table("table", title=title, caption="shares of training occurrences; dropped: of the source's rows")
        for column in ("matched", "share", "new", "share", "dropped", "share"):
            shown.add_column(column, justify="right")
        for t in self.tables:
            if t.left_alone:
                shown.add_row(t.table, "0", "", f"{t.rows - 1:,}", "", "", "")
                continue
            numbers = ((t.matched, t.seen_matched), (t.new, t.seen_new), (t.dropped, t.dropped_share))
            shown.add_row(t.table, *(cell for count, share in numbers for cell in (f"{count:,}", _share(share))))
        return shown

    def lines(self) -> list[str]:
        """What the table has no room for."""
        dense = self.dense
        said = f"dense weights ({dense.rule}): {len(dense.loaded)} taken, {len(dense.left_out)} left out"
        if dense.rule not in ("none", "beside"):
            said += "".join(f"\n  {name}: {why}" for name, why in dense.left_out.items())
        carried = [t.table for t in self.tables if t.row_zero == "carried"]
        zero = f"row 0 (out-of-vocabulary): {'carried for ' + ', '.join(carried) if carried else 'by initialiser'}"
        return [*self._manners(), zero, said, *(f"warning: {w}" for w in self.warnings)]

    def _manners(self) -> list[str]:
        """How tables were filled, one line for all that were filled alike."""
        alike: dict[str, list[str]] = {}
        for t in self.tables:
            vectors = ", ".join(part for part in (f"{t.dim} x {t.dtype}", t.change) if part)
            state = f"optimizer state {t.optimizer_state}"
            filled = f"rows by {t.ids}; vectors {vectors}; {state}; new rows {t.new_rows}"
            alike.setdefault(f"left alone, {t.left_alone}" if t.left_alone else filled, []).append(t.table)
        return [f"{', '.join(names)}: {how}" for how, names in alike.items()]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
