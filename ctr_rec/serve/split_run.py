"""Scores a split as a scorer would, user by user against states, and beside it in one packed pass: do they agree?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.models.ranker import Ranker
from ctr_rec.serve.candidates import choose, score_candidates, split_parts


class SplitRun(nn.Module):
    """Logits [N] of a batch: each user's events become a state, the impressions are its candidates.

    A state is made of all events that the batch has of the user, and kept only until the user is scored.
    largest_difference: to the packed pass, over all batches so far. users, state_bytes: of the states so far; a user
    whose events lie in several batches counts in each.

    Raises ConfigError where the tower has no state.
    """

    def __init__(self, ranker: Ranker, micro_batch: int) -> None:
        super().__init__()
        self.tower, self.head = split_parts(ranker)
        self.front, self.micro_batch = ranker.front, micro_batch
        self.largest_difference, self.users, self.state_bytes = 0.0, 0, 0

    def forward(self, batch: Batch) -> Tensor:
        embedded = self.front(batch)
        states = self.tower.encode_history(embedded, batch)
        by_user_N = batch.impression_user.argsort(stable=True)
        counts = torch.bincount(batch.impression_user, minlength=batch.num_users).tolist()
        packed_N = self.head(self.tower.score(states, embedded, batch)).squeeze(-1)
        logit_N = torch.empty_like(packed_N)
        for user, rows_n in enumerate(by_user_N.split(counts)):
            state = states.user(user)
            inputs, candidates = choose(embedded, batch, rows_n)
            logit_N[rows_n] = score_candidates(self.tower, self.head, state, inputs, candidates, self.micro_batch)
            self.users += 1
            self.state_bytes += state.num_bytes
        difference = (logit_N - packed_N).abs().max() if len(logit_N) else torch.zeros(())
        self.largest_difference = max(self.largest_difference, float(difference))
        return logit_N
