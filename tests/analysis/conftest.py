"""Members that the tests of this folder share."""

import pytest

from tests.helpers.tiny_members import saved_members


@pytest.fixture(scope="session")
def members(tmp_path_factory):
    """Folders of untrained networks with seeds 0, 1 and 2."""
    return saved_members(tmp_path_factory.mktemp("members"))
