"""Models to publish, and a Hub on this machine, for the tests of this folder."""

import pytest

from tests.helpers.hub_server import local_hub
from tests.helpers.pushed import make_models


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Two trained members, their merge, and results; see :class:`tests.helpers.pushed.Models`."""
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub(monkeypatch):
    """An empty Hub that this process pushes to."""
    with local_hub(monkeypatch) as hub:
        yield hub
