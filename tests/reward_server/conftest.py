"""Which GenEval cases to run: `--cases FILE` (tests/conftest.py) or the golden ones."""

from pathlib import Path

import pytest

CASES = Path(__file__).parents[1] / "golden" / "geneval" / "cases.jsonl.gz"


@pytest.fixture
def cases_file(request: pytest.FixtureRequest) -> Path:
    chosen: Path | None = request.config.getoption("--cases")
    return chosen or CASES
