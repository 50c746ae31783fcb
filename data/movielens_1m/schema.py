"""MovieLens-1M: what the columns mean. Label: the user rated the film 4 or 5; action: the rating level."""

from ctr_rec.schema.log import Counter, Feature, Kind, LogSchema, Side, Split, Vocabulary

SCHEMA = LogSchema(
    name="movielens_1m",
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

# Proportions 8:1:1 over the whole log and over its first two and first one third of ratings; and the first and second
# half of the default training range, for a model that goes on where an older one was trained.
SPLITS = {
    "default": Split(train_end=975780791, valid_end=978143585),
    "middle": Split(train_end=974139581, valid_end=974691287, test_end=974774780),
    "early": Split(train_end=965357392, valid_end=965693524, test_end=966144165),
    "first_half": Split(train_end=967656711, valid_end=971998599, test_end=974595248),
    "second_half": Split(train_start=967656711, train_end=975780791, valid_end=978143585),
}
