from pathlib import Path

import pytest

from tests.rollout_workers.fakes import save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model."""
    return save_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")
