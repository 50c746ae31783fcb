from pathlib import Path

import pytest

from ctr_rec.batch.config import Alone, DataConfig, Packed, Pointwise
from ctr_rec.config import from_json, override
from ctr_rec.errors import ConfigError
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.ranker import Branch
from ctr_rec.train.run import Run
from tests.train.runs import run_with_beside, small_run


def test_a_run_survives_its_json_with_the_tower_it_had() -> None:
    run = override(small_run(Path("log")), ["tower.orders=7"])
    again = from_json(Run, run.model_dump_json(), "config.json")
    assert again == run
    assert isinstance(again.tower, DINConfig)
    assert again.tower.orders == 7


def test_a_tower_and_batches_that_do_not_fit_are_refused() -> None:
    run = small_run(Path("log"))
    with pytest.raises(ValueError, match=r"DINConfig reads pointwise batches.*Packed.*set data.batches to Pointwise"):
        Run(**{**dict(run), "data": run.data.model_copy(update={"batches": Packed()})})


def test_a_tower_that_reaches_past_the_context_of_its_batches_is_refused() -> None:
    data = DataConfig(log="log", label="liked", batches=Packed(tokens=1024, context=128))
    assert Run(name="fits", data=data, tower=HSTUConfig(layers=2, window=64)).tower.reach == 128
    with pytest.raises(ValueError, match=r"HSTUConfig reaches 130 events back.*brings 128.*context to 130 or more"):
        Run(name="too far", data=data, tower=HSTUConfig(layers=2, window=65))


def test_impressions_alone_are_for_towers_that_read_whole_users() -> None:
    data = DataConfig(log="log", label="liked", batches=Alone(history=8))
    assert Run(name="alone", data=data, tower=HSTUConfig(layers=2, window=65)).data.batches == Alone(history=8)
    with pytest.raises(ValueError, match=r"DINConfig reads pointwise batches, but data.batches is Alone"):
        Run(name="din", data=data, tower=DINConfig())
    data = DataConfig(log="log", label="liked", batches=Pointwise())
    with pytest.raises(ValueError, match=r"HSTUConfig reads packed batches.*set data.batches to Packed.* or Alone"):
        Run(name="hstu", data=data, tower=HSTUConfig())


def test_a_mistyped_override_names_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'sed'.*seed"):
        override(small_run(Path("log")), ["train.sed=3"])


def test_channels_that_a_tower_does_not_read_are_refused() -> None:
    run = small_run(Path("log"))
    data = run.data.model_copy(update={"batches": Packed(tokens=2000, context=512)})
    with pytest.raises(ValueError, match=r"HSTUConfig reads a user's whole stream, so data.channels \(all\) would"):
        Run(**{**dict(run), "data": data, "tower": HSTUConfig()})


def test_a_second_network_survives_its_json_and_lets_a_run_have_channels() -> None:
    run = override(run_with_beside(Path("log")), ["beside.orders=7"])
    again = from_json(Run, run.model_dump_json(), "config.json")
    assert again == run
    assert isinstance(again.beside, DINConfig)
    assert again.beside.orders == 7


def test_each_branch_reads_what_it_would_alone() -> None:
    run = run_with_beside(Path("log"))
    assert not run.data_of(Branch.SEQUENCE).channels
    assert run.data_of(Branch.SEQUENCE).batches == run.data.batches
    assert run.data_of(Branch.BESIDE).channels == run.data.channels
    assert isinstance(run.data_of(Branch.BESIDE).batches, Pointwise)
    plain = small_run(Path("log"))
    assert plain.data_of(Branch.SEQUENCE) == plain.data


def test_a_second_network_of_packed_batches_is_refused() -> None:
    run = run_with_beside(Path("log"))
    with pytest.raises(ValueError, match=r"beside is HSTUConfig, which reads packed batches; .* take DINConfig"):
        Run(**{**dict(run), "beside": HSTUConfig(window=6)})
