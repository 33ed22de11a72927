"""What every test of the running system shares: one small start checkpoint."""

from pathlib import Path

import pytest

from tests.cluster.system.runs import save_start


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small random model and a few prompts."""
    return save_start(tmp_path_factory.mktemp("start"))
