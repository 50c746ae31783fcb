"""KuaiRand-Pure: what the columns mean. Labels: click, long view, like; action: the strongest signal of the exposure.

The user file is a snapshot of unknown date (activity, followers, days since registration), so it may tell of what came
after an impression; WITH_USER_SNAPSHOT = True reads it all the same. Whole-period statistics per video are not
declared at all, because they count the impressions that are to be predicted.
"""

from ctr_rec.schema.log import Counter, Feature, Kind, Known, LogSchema, Side, Split, Vocabulary

WITH_USER_SNAPSHOT = False
SNAPSHOT = ("user_active_degree", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range")
SNAPSHOT += ("register_days_range", *(f"onehot_feat{k}" for k in range(18)))

_snapshot_features = tuple(
    Feature(name=name, kind=Kind.CATEGORIES, side=Side.USER, table=name) for name in SNAPSHOT if WITH_USER_SNAPSHOT
)

SCHEMA = LogSchema(
    name="kuairand_pure",
    time_unit="ms",
    # From the weakest signal to the strongest; hate stands above all. "unknown": an exposure whose outcome the file of
    # earlier histories does not tell.
    actions=("none", "click", "long_view", "profile", "comment", "like", "forward", "follow", "hate", "unknown"),
    labels=("is_click", "long_view", "like"),
    features=(
        *_snapshot_features,
        Feature(name="video", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),
        Feature(name="author", kind=Kind.CATEGORY, side=Side.ITEM, table="author"),
        Feature(name="video_type", kind=Kind.CATEGORY, side=Side.ITEM, table="video_type"),
        Feature(name="upload_type", kind=Kind.CATEGORY, side=Side.ITEM, table="upload_type"),
        Feature(name="upload_day", kind=Kind.CATEGORY, side=Side.ITEM, table="upload_day"),
        Feature(name="music", kind=Kind.CATEGORY, side=Side.ITEM, table="music"),
        Feature(name="tags", kind=Kind.CATEGORIES, side=Side.ITEM, table="tag"),
        Feature(name="duration", kind=Kind.CATEGORIES, side=Side.ITEM, table="duration"),
        Feature(name="tab", kind=Kind.CATEGORIES, side=Side.EVENT, table="tab"),
        Feature(name="watched", kind=Kind.CATEGORIES, side=Side.EVENT, table="watched", known=Known.ACTION),
    ),
    vocabularies=(
        *(Vocabulary(table=f.name) for f in _snapshot_features),
        Vocabulary(table="item", min_count=2),
        Vocabulary(table="author", min_count=2),
        Vocabulary(table="video_type"),
        Vocabulary(table="upload_type"),
        Vocabulary(table="upload_day", min_count=2),
        Vocabulary(table="music", min_count=5),
        Vocabulary(table="tag"),
        Vocabulary(table="duration"),
        Vocabulary(table="tab"),
        Vocabulary(table="watched"),
    ),
    counters=(
        Counter(name="item_click", by="item", label="is_click"),
        Counter(name="item_long_view", by="item", label="long_view"),
        Counter(name="user_click", by="user", label="is_click"),
        Counter(name="user_long_view", by="user", label="long_view"),
    ),
)

# Eight, one and one tenths of the impressions from 2022-04-25 to 04-30.
SPLIT = Split(train_end=1651269755690, valid_end=1651305707912)
