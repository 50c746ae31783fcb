"""MovieLens-100K: what the columns mean. Label: the user rated the film 4 or 5; action: the rating level."""

from ctr_rec.schema.log import Counter, Feature, Kind, LogSchema, Side, Split, Vocabulary

SCHEMA = LogSchema(
    name="movielens_100k",
    time_unit="s",
    actions=("1", "2", "3", "4", "5"),
    labels=("liked",),
    features=(
        Feature(name="gender", kind=Kind.CATEGORY, side=Side.USER, table="gender"),
        Feature(name="age", kind=Kind.CATEGORY, side=Side.USER, table="age"),
        Feature(name="occupation", kind=Kind.CATEGORY, side=Side.USER, table="occupation"),
        Feature(name="film", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),
        Feature(name="genres", kind=Kind.CATEGORIES, side=Side.ITEM, table="genre"),
        Feature(name="year", kind=Kind.CATEGORY, side=Side.ITEM, table="year"),
        Feature(name="title", kind=Kind.TEXT, side=Side.ITEM),
    ),
    vocabularies=(
        Vocabulary(table="gender"),
        Vocabulary(table="age"),
        Vocabulary(table="occupation"),
        Vocabulary(table="item", min_count=2),
        Vocabulary(table="genre"),
        Vocabulary(table="year", min_count=2),
    ),
    counters=(
        Counter(name="item_like", by="item", label="liked"),
        Counter(name="user_like", by="user", label="liked"),
    ),
)

# Eight, one and one tenths of the ratings: 80,003 / 9,997 / 10,000.
SPLIT = Split(train_end=889237269, valid_end=891382267)
