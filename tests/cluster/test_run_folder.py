"""One driver a run folder."""

from pathlib import Path

import pytest
import yaml

from cluster.run_folder import run_folder
from configs.load import QUICKSTART, ConfigError, load
from configs.schema import TrainConfig


def test_the_resolved_config_is_written_and_a_second_driver_is_refused(tmp_path: Path) -> None:
    config = load(QUICKSTART, [f"run_dir={tmp_path}/run"])
    assert isinstance(config, TrainConfig)
    with run_folder(config) as folder:
        assert yaml.safe_load((folder / "config.yaml").read_text())["steps"] == config.steps
        with pytest.raises(ConfigError, match=r"another run is using run_dir .*/run"), run_folder(config):
            pass
    with run_folder(config):
        pass
