"""Which column is the user, the item, the time, the label...: scores over names and contents, with the reason."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import polars as pl

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.prepare.profile import Profile, Table

USER_WORDS = ("user", "uid", "member", "customer", "visitor", "client", "account", "person", "subscriber", "viewer")
USER_WORDS += ("reader", "shopper", "buyer", "cookie", "device", "player", "listener", "userid", "student")
ITEM_WORDS = ("item", "product", "article", "movie", "film", "video", "song", "track", "book", "sku", "ad", "creative")
ITEM_WORDS += ("offer", "content", "document", "doc", "news", "listing", "asin", "goods", "page", "url", "post", "game")
ITEM_WORDS += ("itemid", "productid", "thing", "photo", "pin", "recipe", "job", "hotel", "campaign")
TIME_WORDS = ("time", "timestamp", "ts", "date", "datetime", "when", "epoch", "at", "created", "day", "moment")
REQUEST_WORDS = ("request", "req", "slate", "search", "query", "impression", "imp", "pageview", "reqid", "requestid")
LABEL_WORDS = ("label", "clicked", "click", "target", "y", "outcome", "converted", "conversion", "purchased", "bought")
LABEL_WORDS += ("liked", "like", "response", "engaged", "installed", "install", "result", "success", "opened", "played")
RATING_WORDS = ("rating", "rate", "score", "stars", "star", "grade")
ACTION_WORDS = ("action", "event", "behavior", "behaviour", "interaction", "activity", "verb", "type")
POSITIVE = ("1", "true", "t", "yes", "y", "click", "clicked", "positive", "pos", "ja", "j", "oui", "si", "success")
POSITIVE += ("purchase", "purchased", "buy", "bought", "order", "convert", "converted", "conversion", "like", "liked")
POSITIVE += ("hit", "win", "won", "install", "installed", "opened", "played", "done")
NEGATIVE = ("0", "-1", "false", "f", "no", "n", "none", "negative", "neg", "nein", "non", "skip", "skipped", "miss")
NEGATIVE += ("view", "viewed", "impression", "show", "shown", "ignored", "failure", "dismissed", "not clicked", "pass")
RATING_THRESHOLD_SHARE = 0.8  # of the scale: 4 of 5, 8 of 10


ROLES = ("user", "item", "time", "label", "request", "action")


@dataclass(frozen=True)
class Label:
    """positive, negative: texts in lower case; or at_least, a threshold of a rating."""

    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    at_least: float | None = None


@dataclass(frozen=True)
class Roles:
    """The column of each role and why; `reasons` by role."""

    user: str
    item: str
    time: str
    label: str
    label_values: Label
    request: str | None
    action: str | None
    reasons: dict[str, str]

    def columns(self) -> dict[str, str]:
        """Column by role, of the roles that have one."""
        named = {role: getattr(self, role) for role in ROLES}
        return {role: column for role, column in named.items() if column is not None}


def find_roles(table: Table, overrides: dict[str, str]) -> Roles:
    """Guesses every role; `overrides` name columns of user, item, time or label.

    Raises:
        ConfigError: an override names a column that is not there. DataError: no column fits a role that must be.
    """
    for role, column in overrides.items():
        if column not in table.columns:
            near = difflib.get_close_matches(column, list(table.columns), n=3, cutoff=0.4)
            raise ConfigError(
                f"--{role} {column}: {table.path.name} has no such column; "
                + (f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(table.columns)}")
            )
    reasons: dict[str, str] = {}
    free = [p for p in table.columns.values() if p.name not in overrides.values()]

    def choose(role: str, scored: list[tuple[float, Profile, str]]) -> str:
        if role in overrides:
            reasons[role] = f"named by --{role}"
            return overrides[role]
        best = max(scored, key=lambda s: s[0], default=None)
        if best is None or best[0] <= 0:
            raise DataError(
                f"{table.path.name}: no column looks like the {role}; name it with --{role} COL. "
                f"Columns: {', '.join(table.columns)}"
            )
        free.remove(best[1])
        reasons[role] = best[2]
        return best[1].name

    time = choose("time", [_time_score(p) for p in free])
    label_fits = [(score, p, reason) for score, p, reason, _ in (_label_score(p) for p in free)]
    label = choose("label", label_fits)
    values = _label_score(table.columns[label])[3]
    if values is None:
        raise DataError(
            f"{table.path.name}: column {label!r} cannot be a label: expected two values or a rating, got "
            f"{table.columns[label].distinct} values such as {', '.join(table.columns[label].values[:4])}; name "
            "another with --label COL"
        )
    user = choose("user", [_id_score(p, USER_WORDS, ITEM_WORDS) for p in free])
    item = choose("item", [_id_score(p, ITEM_WORDS, USER_WORDS) for p in free])
    reasons["label"] += f"; {_label_words(values)}"
    request = _request(table, free, user, reasons)
    action = _action(free, reasons)
    if action is None and table.columns[label].distinct > 2 and values.at_least is None:
        action, reasons["action"] = label, "the label's column names the actions"
    return Roles(user, item, time, label, values, request, action, reasons)


def _named(p: Profile, words: tuple[str, ...]) -> bool:
    """Whether a word of the name is among `words`, also with "id" stuck to it, as in visitorid."""
    told = (*p.tokens, "".join(p.tokens))
    return any(t in words or (t.endswith("id") and t[:-2] in words) for t in told)


def _time_score(p: Profile) -> tuple[float, Profile, str]:
    if p.time_format is not None:
        how = "dates" if p.time_format == "temporal" else f"dates like {p.values[0]!r}" if p.values else "dates"
        return (3.0 + _named(p, TIME_WORDS) + (0.5 if p.distinct > 0.1 * p.rows else 0), p, f"holds {how}")
    unit = time_unit(p)
    if p.integer > 0.98 and unit is not None:
        named = _named(p, TIME_WORDS)
        return (2.0 + 2.0 * named, p, f"whole numbers of the size of {unit[2]} since 1970")
    if p.number > 0.98 and _named(p, TIME_WORDS) and p.distinct > 10:
        return (1.0, p, "named like a time; its numbers are no calendar time, so they count as seconds")
    return (0.0, p, "")


def time_unit(p: Profile) -> tuple[str, int, str] | None:
    """(schema's unit, divisor, words) from the magnitude of the median; None where it is no calendar time."""
    for low, unit, divisor, words in (
        (1e17, "us", 1_000, "nanoseconds"),
        (1e14, "us", 1, "microseconds"),
        (1e11, "ms", 1, "milliseconds"),
        (2e8, "s", 1, "seconds"),
    ):
        # From 1976 on; ids of the same size end somewhere else or begin at 0.
        if p.median >= low and p.low >= low:
            return (unit, divisor, words) if p.high < 25 * low or low == 1e17 else None
    return None


def _id_score(p: Profile, words: tuple[str, ...], others: tuple[str, ...]) -> tuple[float, Profile, str]:
    if p.distinct < 2 or p.is_list or (p.number > 0.9 and p.integer < 0.9) or p.words > 3:
        return (0.0, p, "")
    named = _named(p, words)
    ends_as_id = p.tokens[-1:] in (("id",), ("key",), ("code",), ("no",), ("hash",), ("guid",))
    repeats = p.distinct < 0.9 * p.rows
    score = 3.0 * named + 1.0 * ends_as_id + 1.0 * repeats * (p.distinct > 5) - 2.0 * _named(p, others)
    if not named and not (ends_as_id and repeats and not _named(p, others)):
        return (0.0, p, "")
    rows_each = p.rows / max(p.distinct, 1)
    return (score, p, f"{p.distinct:,} different ids, {rows_each:.1f} rows each" + ("" if named else "; ends in an id"))


def _label_score(p: Profile) -> tuple[float, Profile, str, Label | None]:
    named = _named(p, LABEL_WORDS)
    lower = tuple(v.lower() for v in p.values)
    distinct = sorted(set(lower))
    if p.distinct in (2, 3) and len(distinct) == 2:
        known = any(v in POSITIVE for v in distinct) and any(v in NEGATIVE for v in distinct)
        # Where no word tells which value is the yes, it is the rarer one.
        positive = [v for v in distinct if v in POSITIVE] if known else [lower[-1]]
        values = Label(tuple(positive), tuple(v for v in distinct if v not in positive))
        score = (1.0 + 3.0 * named + 1.0 * known) * (1 if named or known else 0)
        earlier = LABEL_WORDS.index(next(t for t in p.tokens if t in LABEL_WORDS)) / 100 if _token(p) else 0.5
        return (score - earlier, p, f"two values: {' and '.join(distinct)}", values)
    if p.number > 0.98 and 3 <= p.distinct <= 101 and _named(p, RATING_WORDS):
        threshold = RATING_THRESHOLD_SHARE * p.high
        return (2.0, p, f"a rating from {p.low:g} to {p.high:g}", Label(at_least=threshold))
    if len(distinct) <= 20 and _named(p, ACTION_WORDS) and any(v in POSITIVE for v in distinct):
        positive = tuple(v for v in distinct if v in POSITIVE)
        values = Label(positive, tuple(v for v in distinct if v not in positive))
        return (1.5, p, f"{len(distinct)} actions", values)
    return (0.0, p, "", None)


def _token(p: Profile) -> bool:
    return any(t in LABEL_WORDS for t in p.tokens)


def _label_words(values: Label) -> str:
    if values.at_least is not None:
        return f"1 from {values.at_least:g} on, else 0"
    return f"1 for {', '.join(values.positive)}; 0 for {', '.join(values.negative)}; anything else has no label"


def _request(table: Table, free: list[Profile], user: str, reasons: dict[str, str]) -> str | None:
    """An id of what was shown together: each belongs to one user, and most are shared by several rows."""
    for p in list(free):
        id_like = p.distinct > 1 and (p.integer > 0.9 or p.number < 0.5) and not p.is_list and p.words <= 2
        if not (_named(p, REQUEST_WORDS) and id_like):
            continue
        groups = table.sample.group_by(p.name).agg(pl.len().alias("n"), pl.col(user).n_unique().alias("users"))
        groups = groups.drop_nulls(p.name)
        if groups.height and float((groups["users"] == 1).mean() or 0) > 0.99 and groups["n"].sum() > groups.height:  # pyright: ignore[reportArgumentType]
            free.remove(p)
            reasons["request"] = f"{groups['n'].sum() / groups.height:.1f} rows each, all of one user"
            return p.name
    return None


def _action(free: list[Profile], reasons: dict[str, str]) -> str | None:
    for p in list(free):
        worded = p.number < 0.5 and 2 <= p.distinct <= 50 and not p.is_list
        if worded and any(t in ACTION_WORDS[:-1] for t in p.tokens):
            free.remove(p)
            reasons["action"] = f"{p.distinct} names of actions: {', '.join(sorted(p.values)[:4])}"
            return p.name
    return None
