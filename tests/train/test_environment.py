import torch

from ctr_rec.sharding.group import open_group
from ctr_rec.train.environment import code_version, environment


def test_environment_names_versions_code_and_hardware() -> None:
    with open_group("cpu") as group:
        found = environment(group)
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["ranks"] == 1
    assert found["memory_gb"] > 0
    assert found["code"] == code_version()
