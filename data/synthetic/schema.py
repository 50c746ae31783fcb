"""The synthetic log: what the columns mean. They follow from the generator's default settings; see README.md."""

from ctr_rec.batch.planted import SyntheticConfig
from ctr_rec.prepare import synthetic

# A log with another action_delay or content_dim, or with the effect `profile`, needs those here too:
# SyntheticConfig(action_delay=60), say.
SCHEMA = synthetic.log_schema(SyntheticConfig())

# Every log ends at the same moment; its last four days are two of validation and two of test.
SPLIT = synthetic.SPLIT
