"""A Hub with one model, for tests of downloads; what takes seconds by default takes tenths."""

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from revt_hf.checkpoints import hub_parts, hub_requests
from revt_hf.checkpoints.download import fetch
from revt_hf.core.errors import UserError
from tests.helpers.hub_repository import Hub, Repository
from tests.helpers.hub_server import TOKEN, serve_hub

WEIGHTS = os.urandom(200_000)
FILES = {"config.json": b'{"model_type": "segformer"}\n', "model.safetensors": WEIGHTS}
# Seconds: nothing in these tests may take longer.
LIMIT = 20


@contextmanager
def small_hub(patch: pytest.MonkeyPatch, cache: Path, ranges: bool = False) -> Iterator[Hub]:
    """Serve ``someone/tiny``; downloads go to ``cache``."""
    pause = time.sleep
    quick = SimpleNamespace(sleep=lambda seconds: pause(min(seconds / 100, LIMIT)))
    held = {("models", "someone/tiny"): Repository(dict(FILES))}
    with serve_hub(Hub(TOKEN, repositories=held, ranges=ranges)) as hub:
        use_endpoint(patch, hub.endpoint)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
        patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
        patch.setattr(hub_requests, "PATIENCE_SECONDS", 1.5)
        patch.setattr(hub_parts, "_PAUSE_SECONDS", 0.01)
        for module in ("utils._http", "file_download"):
            patch.setattr(f"huggingface_hub.{module}.time", quick)
        patch.setenv("HF_TOKEN", TOKEN)
        yield hub


def use_endpoint(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    patch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def not_fetched(sentence: str, source: str = "someone/tiny") -> str:
    """The download fails soon, with one sentence that says nothing of the token."""
    start = time.monotonic()
    with pytest.raises(UserError, match=sentence) as caught:
        fetch(source, quiet=True)
    assert time.monotonic() - start < LIMIT
    assert "\n" not in str(caught.value)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)
