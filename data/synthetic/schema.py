"""The synthetic log: what the columns mean with the default settings; build.py says it for others. See README.md."""

from ctr_rec.batch.planted import SyntheticConfig
from ctr_rec.prepare import synthetic

SCHEMA = synthetic.log_schema(SyntheticConfig())

# Every log ends at the same moment; its last four days are two of validation and two of test.
SPLIT = synthetic.SPLIT
