"""Errors a user can cause. Each message says what was expected, what was got, and how to mend it."""


class CtrRecError(ValueError):
    """Parent of every error that the command line prints as one sentence instead of a traceback."""


class ConfigError(CtrRecError):
    """A recipe, an override or a combination of settings cannot work."""


class SchemaError(CtrRecError):
    """A schema contradicts itself, the data, or the model built from it."""


class DataError(CtrRecError):
    """A file or a value in the data is not what its schema says."""


class CheckpointError(CtrRecError):
    """A checkpoint is missing, unfinished, damaged or does not belong to this model or data."""
