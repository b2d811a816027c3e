"""Models to publish, and a Hub on this machine, for the tests of this folder."""

import os

import pytest

from tests.helpers.hub_server import TOKEN, local_hub
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


@pytest.fixture
def stranger(hub, tmp_path):
    """The environment of another process that uses this Hub, with an empty cache."""
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    return {**os.environ, **own, "HF_HOME": str(tmp_path / "home")}
