import os
import signal

import pytest

from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.stop import StopRequest
from tests.ranks import run_ranks


def test_a_signal_becomes_a_request_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with open_group("cpu") as group, StopRequest() as stop:
        assert not group.any(stop.asked)
        os.kill(os.getpid(), signal.SIGTERM)
        assert group.any(stop.asked)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_interrupt_interrupts() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def _asked_on_rank_one(group: Group) -> bool:
    with StopRequest() as stop:
        if group.index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return group.any(stop.asked)


def test_all_ranks_agree_when_one_is_asked() -> None:
    assert run_ranks(_asked_on_rank_one, 2) == [True, True]
