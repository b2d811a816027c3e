"""Members that the tests of this folder share."""

import pytest

from tests.helpers.networks import saved


@pytest.fixture(scope="session")
def members(tmp_path_factory):
    """Folders of untrained networks with seeds 0, 1 and 2."""
    root = tmp_path_factory.mktemp("members")
    return [saved(root / str(seed), seed) for seed in range(3)]
