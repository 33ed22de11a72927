"""A small BAGEL, random in every parameter, and where the parity cases are."""

from pathlib import Path

import pytest
import torch

from tests.unigrpo.models.fakes import CONFIG, random_autoencoder, random_model
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.model import Bagel

BUNDLED = Path(__file__).parents[2] / "golden" / "bagel"


@pytest.fixture(scope="session")
def golden_folder(request: pytest.FixtureRequest) -> Path:
    given: Path | None = request.config.getoption("--golden")
    return BUNDLED if given is None else given


@pytest.fixture(scope="session")
def released_folder() -> Path:
    """Holds the names and shapes of the released checkpoint."""
    return BUNDLED


@pytest.fixture
def config() -> BagelConfig:
    return CONFIG


@pytest.fixture
def model() -> Bagel:
    """In float64, so that equalities are sharp."""
    return random_model(torch.float64)


@pytest.fixture
def autoencoder() -> AutoEncoder:
    return random_autoencoder()
