"""Which kind and side each remaining column has, and whether it can be known before the action; with the reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

from ctr_rec.metrics.ranking import auc
from ctr_rec.prepare.flat import MISSING_SUFFIX, cell_number, cell_text, cell_time
from ctr_rec.prepare.profile import Profile, Table
from ctr_rec.prepare.raw import RESERVED
from ctr_rec.prepare.roles import Roles
from ctr_rec.prepare.single_feature import SUSPICIOUS_AUC
from ctr_rec.schema.log import Feature, Kind, Known, Side

FEW = 50  # whole numbers with at most this many values are categories
LONG_TEXT_WORDS = 3.5
SKEWED = 5.0  # a number whose largest value is this many medians gets log1p
FILLED_SHARE = 0.95  # of users or items with gaps, all of them before the first value: no attribute but an outcome
MIN_GROUPS = 10  # items or users with two rows or more, before an attribute is believed to be theirs
AFTER_WORDS = {
    "dwell",
    "watch",
    "watched",
    "play",
    "playtime",
    "stay",
    "listen",
    "listened",
    "rating",
    "stars",
    "score",
}
AFTER_WORDS |= {"spent", "revenue", "paid", "converted", "conversion", "purchased", "liked", "like", "shared", "share"}
AFTER_WORDS |= {"clicked", "click", "bought", "comment", "commented", "follow", "followed", "finished", "completed"}
WHOLE_PERIOD_WORDS = {"ctr", "cvr", "popularity", "popular", "total", "avg", "average", "mean", "cumulative", "rank"}
CODE_WORDS = {"id", "code", "zip", "type", "category", "class", "level", "flag", "group", "key", "hash", "bucket"}


@dataclass(frozen=True)
class Column:
    """What becomes of one column: its features (none where it is left out) and why."""

    column: str
    role: str
    why: str
    features: tuple[Feature, ...] = ()
    list_separator: str | None = None


def feature_columns(table: Table, roles: Roles) -> list[Column]:
    """Every column that has no role, in file order."""
    used = {"item"} | set().union(*RESERVED.values())
    found = []
    for p in table.columns.values():
        if p.name not in roles.columns().values():
            found.append(_column(table, p, roles, used))
            used |= {f.name for f in found[-1].features}
    return found


def _column(table: Table, p: Profile, roles: Roles, used: set[str]) -> Column:
    left_out = _left_out(p)
    if left_out is not None:
        return Column(p.name, "left out", left_out)
    side, side_why = _side(table, p, roles)
    if side is Side.ITEM and WHOLE_PERIOD_WORDS & set(p.tokens):
        why = f"{side_why}; named like a statistic over the whole period, which would count what is to be predicted"
        return Column(p.name, "left out", why)
    kind, kind_why = _kind(p)
    name = _name(p.name, used)
    filled = _filled(table, p, roles, side) if side is not Side.EVENT and p.missing > 0 else ""
    if filled:
        side, side_why, known, known_why = Side.EVENT, filled, Known.ACTION, "history only, never the candidate's"
    else:
        known, known_why = _known(table, p, roles, kind) if side is Side.EVENT else (Known.REQUEST, "")
    missing = f"; {p.missing:.1%} missing" if p.missing > 0 else ""
    if kind is Kind.CATEGORY and p.missing > 0:
        kind, missing = Kind.CATEGORIES, f"{missing}, so a list of at most one"
    log1p = kind is Kind.NUMBER and p.low >= 0 and p.high > SKEWED * max(p.median, 1e-9)
    feature = Feature(
        name=name,
        kind=kind,
        side=side,
        table=name if kind in (Kind.CATEGORY, Kind.CATEGORIES) else None,
        known=known,
        log1p=log1p,
        dim=_dim(p) if kind is Kind.VECTOR else None,
    )
    features = (feature,)
    if kind is Kind.NUMBER and p.missing > 0:
        flag = f"{name}{MISSING_SUFFIX}"
        features = (feature, Feature(name=flag, kind=Kind.CATEGORY, side=side, table=flag, known=known))
        missing += f", read as 0 beside {flag}"
    reasons = [kind_why + (" (log1p: skewed)" if log1p else "") + missing, side_why, known_why]
    return Column(
        p.name, f"{side.value} {kind.value}", "; ".join(r for r in reasons if r), features, _separator(p, kind)
    )


def _separator(p: Profile, kind: Kind) -> str | None:
    return p.parts if kind is Kind.CATEGORIES and not isinstance(p.dtype, (pl.List, pl.Array)) else None


def _left_out(p: Profile) -> str | None:
    if isinstance(p.dtype, pl.Struct):
        return "nested records have no kind here; unnest the field you need in build.py"
    if p.is_list:
        return None
    if p.distinct <= 1:
        return "the same value everywhere" if p.missing == 0 else "no more than one value, else missing"
    if p.time_format is not None:
        return "a second column of times; make a feature of it in build.py if it is known at request time"
    counts_rows = p.distinct == p.rows and (p.integer == 1.0 or p.words <= 1.0)
    if counts_rows and (p.integer == 1.0 or {"id", "uuid", "guid", "key", "hash"} & set(p.tokens)):
        return "another value in every row: it names the row"
    return None


def _side(table: Table, p: Profile, roles: Roles) -> tuple[Side, str]:
    """Whose attribute it is: the item's or user's that it never changes for, the event's otherwise."""
    constant = {}
    for side, key in ((Side.ITEM, roles.item), (Side.USER, roles.user)):
        value = pl.col(p.name)
        groups = (
            table.sample.drop_nulls([key, p.name]).group_by(key).agg(pl.len().alias("n"), value.n_unique().alias("v"))
        )
        several = groups.filter(pl.col("n") > 1)
        if several.height >= MIN_GROUPS and bool((several["v"] == 1).all()):
            constant[side] = several.height
    if not constant:
        return Side.EVENT, "changes within users and items"
    side = max(constant, key=lambda s: constant[s])
    return side, f"never changes within one {side.value} ({constant[side]:,} with several rows)"


def _filled(table: Table, p: Profile, roles: Roles, side: Side) -> str:
    """Why an attribute with gaps is not believed: it is there from some event on, or where the label is positive.

    What fills it is then most likely the action, so its value, or that it is there, would tell the future.
    """
    there = pl.col(p.name).is_not_null() if p.is_list else cell_text(p.name, p.dtype).is_not_null()
    key = roles.item if side is Side.ITEM else roles.user
    rows = table.sample.select(
        key=pl.col(key), time=_sample_time(table, roles), there=there, label=_sample_label(table, roles)
    )
    groups = (
        rows.drop_nulls(["key", "time"])
        .group_by("key")
        .agg(
            pl.col("time").filter("there").min().alias("first"),
            pl.col("time").filter(~pl.col("there")).max().alias("gap"),
        )
    )
    groups = groups.drop_nulls()
    if groups.height >= MIN_GROUPS and float((groups["gap"] <= groups["first"]).mean() or 0) > FILLED_SHARE:  # pyright: ignore[reportArgumentType]
        return f"is filled from some event on in {groups.height:,} {side.value}s with gaps"
    labelled = rows.drop_nulls("label")
    found = float(auc(labelled["label"].to_numpy(), labelled["there"].to_numpy().astype(np.float64)))
    return f"that it is filled reaches AUC {found:.2f} for the label" if found > SUSPICIOUS_AUC else ""


def _sample_time(table: Table, roles: Roles) -> pl.Expr:
    """Integers in the order of the times."""
    p = table.columns[roles.time]
    return cell_time(p.name, p.dtype, None if p.time_format == "temporal" else p.time_format, 1)


def _kind(p: Profile) -> tuple[Kind, str]:
    if isinstance(p.dtype, (pl.List, pl.Array)):
        inner = p.dtype.inner
        floats = (pl.Float16, pl.Float32, pl.Float64)
        if inner is not None and pl.List(inner).inner in floats and isinstance(p.dtype, pl.Array):
            return Kind.VECTOR, "a fixed number of floats"
        return Kind.CATEGORIES, "a list"
    if p.parts is not None:
        return Kind.CATEGORIES, f"a list parted by {p.parts!r}"
    coded = bool(CODE_WORDS & set(p.tokens))
    if p.number > 0.98 and p.integer < 0.98:
        return Kind.NUMBER, f"numbers from {p.low:g} to {p.high:g}"
    if p.number > 0.98 and p.distinct > FEW and not coded:
        return Kind.NUMBER, f"{p.distinct:,} whole numbers from {p.low:g} to {p.high:g}"
    if p.words > LONG_TEXT_WORDS or (p.length > 40 and p.distinct > FEW and p.words > 1.5):
        return Kind.TEXT, f"{p.words:.1f} words each"
    return Kind.CATEGORY, f"{p.distinct:,} different values"


def _known(table: Table, p: Profile, roles: Roles, kind: Kind) -> tuple[Known, str]:
    """An event's feature that is named like an outcome, or that tells the label, is known with the action only."""
    told = AFTER_WORDS & set(p.tokens)
    if told:
        return Known.ACTION, f"named like an outcome ({', '.join(sorted(told))}): history only, never the candidate's"
    alone = _auc(table, p, roles, kind)
    if alone > SUSPICIOUS_AUC:
        return Known.ACTION, f"alone it reaches AUC {alone:.2f} for the label: history only, never the candidate's"
    return Known.REQUEST, ""


def _auc(table: Table, p: Profile, roles: Roles, kind: Kind) -> float:
    """AUC of the column alone in the sample: a number as it is, a category by its mean label in the other half."""
    label = _sample_label(table, roles)
    if kind not in (Kind.NUMBER, Kind.CATEGORY, Kind.CATEGORIES) or p.is_list:
        return 0.5
    if kind is Kind.NUMBER:
        value = cell_number(p.name, p.dtype, table.decimal_comma).fill_null(0.0)
    else:
        value = cell_text(p.name, p.dtype).fill_null("")
    rows = table.sample.select(value.alias("value"), label.alias("label")).with_row_index("row").drop_nulls("label")
    if kind is not Kind.NUMBER:
        train, rows = rows.filter(pl.col("row") % 2 == 0), rows.filter(pl.col("row") % 2 == 1)
        means = train.group_by("value").agg(((pl.col("label").sum() + 1) / (pl.len() + 2)).alias("mean"))
        rows = rows.join(means, on="value", how="left").with_columns(pl.col("mean").fill_null(0.5).alias("value"))
    found = float(auc(rows["label"].to_numpy(), rows["value"].to_numpy().astype(np.float64)))
    return max(found, 1 - found) if np.isfinite(found) else 0.5


def _sample_label(table: Table, roles: Roles) -> pl.Expr:
    p, values = table.columns[roles.label], roles.label_values
    if values.at_least is not None:
        return (cell_number(p.name, p.dtype, table.decimal_comma) >= values.at_least).cast(pl.Int8)
    text = cell_text(p.name, p.dtype).str.to_lowercase()
    positive, negative = text.is_in(list(values.positive)), text.is_in(list(values.negative))
    return pl.when(positive).then(1).when(negative).then(0).otherwise(None).cast(pl.Int8)


def _dim(p: Profile) -> int:
    assert isinstance(p.dtype, pl.Array)
    return int(np.prod(p.dtype.shape))


def _name(column: str, used: set[str]) -> str:
    """A feature name: letters, digits and _, not taken by the stored format or by another feature."""
    name = re.sub(r"[^0-9A-Za-z]+", "_", column).strip("_").lower() or "column"
    name = f"c_{name}" if name[0].isdigit() else name
    name = f"{name}_value" if name in used or name.startswith("label_") or name.endswith(MISSING_SUFFIX) else name
    number, free = 2, name
    while free in used:
        free, number = f"{name}_{number}", number + 1
    return free
