"""Small raw folders in the publishers' layouts, and where the real ones are, if anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CTR_REC_DATA", ROOT.parent / "shared" / "data"))


def real(name: str) -> Path:
    """A folder of real data; the test is skipped where it is absent."""
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not in {DATA}; name the folder that holds it in CTR_REC_DATA")
    return DATA / name


def movielens_1m(folder: Path) -> Path:
    lines = [
        f"{u}::{f}::{1 + (u * f) % 5}::{970_000_000 + 100_000 * f + u // 2}" for u in range(1, 9) for f in range(60)
    ]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")
    users = [f"{u}::{'MF'[u % 2]}::{[1, 25][u % 2]}::{u}::0000{u}" for u in range(1, 9)]
    (folder / "users.dat").write_text("\n".join(users) + "\n", encoding="latin-1")
    films = [f"{f}::Café {f} ({1940 + f})::{'Comedy|Drama' if f % 2 else 'War'}" for f in range(60)]
    (folder / "movies.dat").write_text("\n".join(films) + "\n", encoding="latin-1")
    return folder


def movielens_100k(folder: Path, genres: list[str]) -> Path:
    pairs = [(u, f) for u in range(1, 9) for f in range(1, 41)]
    ratings = {
        "user_id": [u for u, _ in pairs],
        "movie_id": [f for _, f in pairs],
        "rating": [1 + (u * f) % 5 for u, f in pairs],
        "timestamp": [888_000_000 + 100_000 * f + u // 2 for u, f in pairs],
    }
    users = {
        "user_id": range(1, 9),
        "age": [7, 18, 24, 25, 49, 50, 56, 73],
        "gender": ["M", "F"] * 4,
        "occupation": ["artist"] * 8,
    }
    films = {
        "movie_id": range(1, 41),
        "movie_title": [f"Film {f} (1990)" for f in range(1, 41)],
        "release_date": ["01-Jan-1990"] * 39 + [None],
        **{g: [int((f + k) % 7 == 0) for f in range(1, 41)] for k, g in enumerate(genres)},
    }
    for part, data in (("data", ratings), ("users", users), ("items", films)):
        path = folder / f"MovieLens100k_{part}.parquet.brotli"
        pl.DataFrame(data).write_parquet(path, compression="brotli")
    return folder


LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
VIDEO_HEADER = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag"
)
USER_HEADER = (
    "user_id,user_active_degree,follow_user_num_range,fans_user_num_range,friend_user_num_range,register_days_range,"
    + ",".join(f"onehot_feat{k}" for k in range(18))
)
START = 1_651_200_000_000


def kuairand(folder: Path, signals: list[str]) -> Path:
    """20 impressions 8 s apart per user; `signals` are rows of the twelve signal columns for the first user."""
    rows = []
    for user in range(3):
        for k in range(20):
            shown = signals[k % len(signals)] if user == 0 else f"{k % 2},0,0,0,0,0,0"
            click, like, follow, comment, forward, hate, long_view = shown.split(",")
            time = START + 8_000_000 * k + user
            flags = f"{click},{like},{follow},{comment},{forward},{hate},{long_view}"
            rows.append(f"{user},{k % 7},20220425,0,{time},{flags},{500 * k},{0 if k == 3 else 8000},0,0,0,0,1")
    (folder / "log_standard_4_22_to_5_08_pure.csv").write_text("\n".join([LOG_HEADER, *rows]) + "\n")
    videos = [
        f"{v},{v % 3},NORMAL,2022-04-10,Kmovie,0.0,{'' if v == 2 else 9000.0 * v},720,1280,{v},9.0,{v}"
        for v in range(7)
    ]
    videos[5] = videos[5].replace(",9.0,5", ',9.0,"5,12"')
    videos[6] = videos[6].rsplit(",", 1)[0] + ","
    (folder / "video_features_basic_pure.csv").write_text("\n".join([VIDEO_HEADER, *videos]) + "\n")
    users = [f"{u},full_active," + ",".join(["0"] * 4) + "," + ",".join(["1"] * 17) + "," for u in range(3)]
    (folder / "user_features_pure.csv").write_text("\n".join([USER_HEADER, *users]) + "\n")
    return folder
