"""Where the passes of a stage have their batches from: one reader per feed, and the batches of each step.

All of it is a function of (stage, epoch, step of the epoch), so the state of several readers is still two integers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from itertools import islice

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.config import Alone, DataConfig, Pointwise
from ctr_rec.batch.reader import Reader
from ctr_rec.models.ranker import Branch
from ctr_rec.train.build import Built
from ctr_rec.train.stage import Feed, Pass, Stage

TOKENS = 1 << 16
"""Of a batch of impressions that have a history of their own each, at most."""


class Feeds:
    """Readers of the training range, made when first asked for."""

    def __init__(self, built: Built) -> None:
        self._built = built
        self._readers: dict[tuple[Feed, int, bool], Reader] = {}

    @property
    def waited(self) -> float:
        """Seconds that training has waited for batches so far."""
        return sum(reader.waited for reader in self._readers.values())

    def num_steps(self, stage: Stage) -> int:
        """Steps of an epoch of the stage, the same on every rank."""
        return self._reader(stage, stage.passes[0]).num_batches()

    def epoch(self, stage: Stage, epoch: int, start: int) -> Generator[list[tuple[Pass, Batch]]]:
        """The passes of the steps start, start + 1, ... of an epoch, each with its batch; nothing before is read.

        Of K batches of another feed than the first, step k of S has those from k K // S to (k + 1) K // S.
        """
        first = stage.passes[0]
        steps = self.num_steps(stage)
        others: dict[Feed, Iterator[Batch]] = {}
        count: dict[Feed, int] = {}
        with ExitStack() as stack:
            main = stack.enter_context(closing(self._reader(stage, first).batches(epoch, start)))
            for one in stage.passes[1:]:
                if one.feed not in others and one.feed is not first.feed:
                    reader = self._reader(stage, one)
                    count[one.feed] = reader.num_batches()
                    batches = reader.batches(epoch, start * count[one.feed] // steps)
                    others[one.feed] = stack.enter_context(closing(batches))
            for step, batch in enumerate(main, start):
                given = {f: list(islice(b, _due(step, count[f], steps))) for f, b in others.items()}
                given[first.feed] = [batch]
                yield [(one, each) for one in stage.passes for each in given[one.feed]]

    def _reader(self, stage: Stage, one: Pass) -> Reader:
        beside = any(p.feed is one.feed and p.loss.branch is not Branch.SEQUENCE for p in stage.passes)
        key = (one.feed, one.period, beside)
        if key not in self._readers:
            self._readers[key] = self._open(self._data(one, beside))
        return self._readers[key]

    def _open(self, data: DataConfig) -> Reader:
        built = self._built
        return Reader(data, built.spec, "train", built.run.train.seed, built.group.index, built.group.size)

    def _data(self, one: Pass, beside: bool) -> DataConfig:
        run = self._built.run
        if one.feed is Feed.OWN:
            return run.data if beside else run.data_of(Branch.SEQUENCE)
        own = self._reader(Stage("", 1), Pass())
        impressions = max(1, round(own.num_impressions() * one.period / own.num_batches()))
        if one.feed is Feed.SINGLE:
            return run.data.model_copy(update={"batches": Pointwise(impressions=impressions)})
        # What lies beyond the tower's reach has no path to the score.
        history = run.train.sequence_then_sparse.history or run.tower.reach or None
        tokens = None if history is None else max(TOKENS, history + 1)
        batches = Alone(impressions=impressions, history=history, tokens=tokens)
        return run.data_of(Branch.SEQUENCE).model_copy(update={"batches": batches})


def _due(step: int, batches: int, steps: int) -> int:
    """How many of `batches` that are spread over `steps` belong to one step."""
    return (step + 1) * batches // steps - step * batches // steps
