"""The synthetic log, prepared: its probabilities are the stated function of what the stored log lets one see."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from ctr_rec.batch.planted import (
    ALL_EFFECTS,
    CLICK,
    FOLLOW,
    LIKE,
    SEARCH,
    SHOWN,
    SyntheticConfig,
    World,
    make_world,
)
from ctr_rec.batch.synthetic import chunks
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.metrics.ranking import auc
from ctr_rec.prepare import synthetic
from ctr_rec.prepare.synthetic import TRUTH, best_metrics, log_schema, read_raw, true_probabilities, write_log
from ctr_rec.prepare.write import flat
from ctr_rec.schema.manifest import SPLITS

CONFIG = SyntheticConfig(users=40, items=30, requests_per_user=6)
LATE = CONFIG.model_copy(update={"dwell": 40, "interleave": 0.7, "action_delay": 90, "seed": 5, "nth": 2})
# A request begins at the very moment at which an event of the one before becomes known: it must not see it.
TIED = LATE.model_copy(update={"action_delay": 21})
# Late too, and each user favours a group.
FAVOURED = LATE.model_copy(update={"effects": ALL_EFFECTS.model_copy(update={"profile": 2.0})})


class Past(NamedTuple):
    """A visible event."""

    item: int
    action: int
    time: int


def naive_logit(config: SyntheticConfig, world: World, user: int, past: list[Past], item: int, now: int) -> float:
    """The formulas of batch/planted.py, one event after the other. past: oldest first."""

    def taste(other: int) -> float:
        return float(world.taste[item] @ world.taste[other]) - 1 / config.groups

    def faded(kinds: tuple[int, ...], value: Callable[[Past], float]) -> float:
        newest_first = [e for e in reversed(past) if e.action in kinds]
        return sum((1 - config.fade) * config.fade**k * value(e) for k, e in enumerate(newest_first))

    e, hour = config.effects, now % 86_400 / 3_600
    follows = [p.item for p in past if p.action == FOLLOW]
    tau = config.tau_hours * 3_600
    logit = config.bias + e.long_term * sum(map(taste, follows)) / config.onboarding
    logit += e.drift * faded((CLICK, LIKE), lambda p: taste(p.item))
    logit += e.time_gap * sum(taste(p.item) * math.exp((p.time - now) / tau) / 2 for p in past if p.action in SHOWN)
    logit += e.action_kind * faded((CLICK, LIKE), lambda p: taste(p.item) * (1 if p.action == LIKE else -0.5))
    logit += e.position * taste(past[-config.nth].item) if len(past) >= config.nth else 0
    logit += e.content * faded(SHOWN, lambda p: float(world.content[item] @ world.content[p.item]))
    logit += e.channel * (faded((SEARCH,), lambda p: taste(p.item)) - faded(SHOWN, lambda p: taste(p.item)))
    logit += e.profile * (float(world.taste[item, world.favourite[user]]) - 1 / config.groups)
    logit += e.time_of_day * math.cos((hour - world.peak[world.group[item]]) * math.pi / 12)
    return logit + e.popularity * world.popularity[item]


@pytest.mark.parametrize(
    "config",
    [CONFIG, LATE, TIED, FAVOURED],
    ids=["at once", "late and interleaved", "known at the request", "favourite"],
)
def test_probabilities_are_what_the_visible_history_says(config: SyntheticConfig, tmp_path: Path) -> None:
    write_log(config, tmp_path / "raw", tmp_path / "log")
    world = make_world(config)
    raw_item = pl.read_parquet(tmp_path / "log" / "items" / "items.parquet")["item_id"].to_list()
    expected = []
    users = pl.read_parquet(tmp_path / "log" / "users" / "part-00000.parquet", columns=["user", "user_id"])
    stored = pl.read_parquet(tmp_path / "log" / "events" / "part-00000.parquet")
    for row in stored.join(users, on="user", maintain_order="left").iter_rows(named=True):
        events = [Past(raw_item[i], a, t) for i, a, t in zip(row["item"], row["action"], row["time"], strict=True)]
        for position, event in enumerate(events):
            if row["impression"][position]:
                request_time = row["request_time"][position]
                past = [e for e in events if e.time + config.action_delay < request_time]
                expected.append(naive_logit(config, world, row["user_id"], past, event.item, request_time))
    p = true_probabilities(tmp_path / "log")["p"].to_numpy()
    assert len(p) > 500
    np.testing.assert_allclose(np.log(p / (1 - p)), expected, rtol=1e-9, atol=1e-9)


def test_the_truth_cannot_be_beaten(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"users": 300})
    write_log(config, tmp_path / "raw", tmp_path / "log")
    rows = true_probabilities(tmp_path / "log").filter(pl.col("split") == "test")
    best = best_metrics(tmp_path / "log", "test")
    assert best["impressions"] == rows.height
    assert best["auc"] == pytest.approx(auc(rows["label"].to_numpy(), rows["p"].to_numpy()))
    noise = np.random.default_rng(0).normal(size=rows.height)
    assert best["auc"] > auc(rows["label"].to_numpy(), rows["p"].to_numpy() + 0.2 * noise) + 0.01
    assert 0.9 < best["calibration"] < 1.1


def test_impressions_before_the_training_range_are_history(tmp_path: Path) -> None:
    start = synthetic.SPLIT.train_end - 86_400
    split = synthetic.SPLIT.model_copy(update={"train_start": start})
    manifest = write_log(CONFIG, tmp_path / "raw", tmp_path / "log", split)
    found = dict(true_probabilities(tmp_path / "log").group_by("split").len().iter_rows())
    assert tuple(found[name] for name in SPLITS) == manifest.impressions
    assert found["history"] > 0
    assert true_probabilities(tmp_path / "log", "train").height == manifest.impressions[0]


def test_impressions_are_numbered_through_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts = partial(synthetic.prepare_log, partition_events=400, row_group_events=150)
    monkeypatch.setattr(synthetic, "prepare_log", in_parts)
    manifest = write_log(CONFIG, tmp_path / "raw", tmp_path / "log")
    assert len({group.file for group in manifest.row_groups}) > 2
    shown = []
    for group in manifest.row_groups:
        rows = pq.ParquetFile(tmp_path / "log" / group.file).read_row_group(group.index)
        shown += [group.first_event + i for i in np.flatnonzero(flat(rows, "impression"))]
    assert true_probabilities(tmp_path / "log")["impression"].to_list() == shown


def test_the_prepared_log_is_the_same_every_time(tmp_path: Path) -> None:
    first = write_log(LATE, tmp_path / "raw", tmp_path / "log")
    again = write_log(LATE, tmp_path / "other", tmp_path / "log2")
    assert first.fingerprint == again.fingerprint
    assert first.data_schema.action_delay == 90
    assert (tmp_path / "log" / TRUTH).read_bytes() == (tmp_path / "log2" / TRUTH).read_bytes()


def test_raw_files_are_made_once_and_again_for_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "config.json").write_text(CONFIG.model_dump_json())
    config, log = read_raw(folder)
    assert config == CONFIG
    made = (folder / "events.parquet").stat().st_mtime_ns
    read_raw(folder)
    assert (folder / "events.parquet").stat().st_mtime_ns == made
    (folder / "config.json").write_text('{"users": 10, "requests_per_user": 2}')
    _, log = read_raw(folder)
    assert log.events.select(pl.col("user_id").n_unique()).collect().item() == 10


def test_a_file_of_settings_is_enough(tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text('{"users": 10, "requests_per_user": 2}')
    config, log = read_raw(tmp_path / "tiny.json")
    assert config.users == 10
    assert log.events.select(pl.col("user_id").n_unique()).collect().item() == 10
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.json"]
    (tmp_path / "tiny.json").write_text('{"user": 10}')
    with pytest.raises(ConfigError, match=r"tiny.json: user: extra inputs"):
        read_raw(tmp_path / "tiny.json")


def test_a_log_without_truth_says_so(tmp_path: Path) -> None:
    write_log(CONFIG, tmp_path / "raw", tmp_path / "log")
    with pytest.raises(ConfigError, match="expected one of train, valid, test, got 'tset'"):
        best_metrics(tmp_path / "log", "tset")
    write_log(CONFIG.model_copy(update={"seed": 2}), tmp_path / "raw2", tmp_path / "log2")
    (tmp_path / "log" / TRUTH).write_bytes((tmp_path / "log2" / TRUTH).read_bytes())
    with pytest.raises(DataError, match=r"have no probability there.*belongs to another log"):
        best_metrics(tmp_path / "log")
    (tmp_path / "log" / TRUTH).unlink()
    with pytest.raises(DataError, match=r"expected truth.parquet beside the log, found none"):
        best_metrics(tmp_path / "log")


def test_features_do_not_tell_the_truth() -> None:
    assert [f.name for f in log_schema(CONFIG).features] == ["item", "group", "content"]
    assert [f.name for f in log_schema(FAVOURED).features] == ["item", "group", "content", "favourite"]


def test_users_favour_what_their_feature_says(tmp_path: Path) -> None:
    manifest = write_log(FAVOURED, tmp_path / "raw", tmp_path / "log")
    assert manifest.data_schema == log_schema(FAVOURED)
    users = pl.read_parquet(tmp_path / "log" / "users" / "part-00000.parquet")
    vocabulary = pl.read_parquet(tmp_path / "log" / "vocabulary" / "favourite.parquet")
    name = dict(vocabulary.select("row", "id").iter_rows())
    favourite = make_world(FAVOURED).favourite[users["user_id"].to_numpy()].tolist()
    assert [int(name[row]) for row in users["favourite"]] == favourite
    assert len(set(favourite)) > 1


def test_a_log_whose_users_favour_nothing_is_written_without_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_log(CONFIG, raw, tmp_path / "log")
    assert sorted(p.name for p in raw.iterdir()) == ["config.json", "events.parquet", "items.parquet", TRUTH]
    write_log(FAVOURED, raw, tmp_path / "log2")
    (raw / "users.parquet").unlink()
    assert read_raw(raw)[1].users is not None, "made again where one of its files is missing"


def test_alike_content_and_scenes_are_stored_as_planted(tmp_path: Path) -> None:
    """Its effects are tested in tests/batch/test_planted_content.py; here, that the log holds what they speak of."""
    config = CONFIG.model_copy(update={"clusters": 6, "content_dim": 16, "scenes": 3})
    found = {}
    for content in ("own", "shuffled"):
        one = config.model_copy(update={"content": content})
        write_log(one, tmp_path / f"raw {content}", tmp_path / content)
        items = pl.read_parquet(tmp_path / content / "items" / "items.parquet").sort("item_id")
        found[content] = np.array(items["content"].to_list())
    world, order = make_world(config), np.arange(config.items)
    assert np.array_equal(found["own"], world.content[order])
    assert not np.array_equal(found["shuffled"], found["own"])
    assert np.array_equal(np.sort(found["shuffled"], axis=0), np.sort(found["own"], axis=0))
    assert (tmp_path / "own" / TRUTH).read_bytes() == (tmp_path / "shuffled" / TRUTH).read_bytes()
    (raw,) = chunks(config)
    raw_scene = dict(zip(zip(raw.user, raw.item, raw.time, strict=True), raw.scene, strict=True))
    ids = pl.read_parquet(tmp_path / "own" / "vocabulary" / "scene.parquet")
    scene_of_row = dict(zip(ids["row"], ids["id"], strict=True))
    item_id = pl.read_parquet(tmp_path / "own" / "items" / "items.parquet")["item_id"].to_list()
    events = pl.read_parquet(tmp_path / "own" / "events" / "part-00000.parquet")
    users = pl.read_parquet(tmp_path / "own" / "users" / "part-00000.parquet")["user_id"]
    for user, row in zip(users, events.iter_rows(named=True), strict=True):
        for item, time, scene in zip(row["item"], row["time"], row["scene"], strict=True):
            assert int(scene_of_row[scene]) == raw_scene[int(user), item_id[item], time]
