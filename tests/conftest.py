"""What every test process needs before torch, ray, vllm or deepspeed are imported, and the options of the parity suites."""

import os
from pathlib import Path

import pytest

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # several processes share two cores: more threads than one make every one of them slower
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
os.environ.update(ENVIRONMENT)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", type=Path, help="folder of BAGEL parity cases (config.json, *.safetensors); default: the bundled one"
    )
    parser.addoption("--cases", type=Path, help="GenEval cases, JSONL, plain or gzipped; default: the bundled ones")
