"""`unigrpo reward serve` as a user starts it: on the real Ray Serve."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from cluster.reward_replicas import cause
from cluster.reward_service import _how_to_call, check, listening
from configs.load import ConfigError, load, parse
from configs.remote import Remote
from configs.reward_service import RewardServiceConfig
from configs.schema import TrainConfig
from configs.verifiers import HttpReward
from reward_server.protocol import SCORE_PATH, encode_request, read_answer
from tests.reward_server.service.fakes import PROMPTS, TOKEN, drawn
from unigrpo.types import Score, ScoreFailure

PRESET = yaml.safe_load(Path("configs/shapes_reward_service.yaml").read_text(encoding="utf-8"))
START_SECONDS = 120
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def config(**changes: object) -> RewardServiceConfig:
    parsed = parse(PRESET | changes, source="test")
    assert isinstance(parsed, RewardServiceConfig)
    return parsed


def test_a_port_in_use_is_one_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port={port}: another process listens there"), listening("127.0.0.1", port):
            pass
    with listening("127.0.0.1", port) as listener:
        assert listener.getsockname()[1] == port
    with pytest.raises(ConfigError, match=r"cannot listen at host=192\.0\.2\.1"), listening("192.0.2.1", port):
        pass


@pytest.mark.parametrize(
    "credentials", [{}, {"token_env": "JUDGE_TOKEN"}, {"token_file": "/secrets/judge token"}], ids=["none", "env", "file"]
)
def test_the_line_that_a_training_run_is_told_is_its_config(credentials: dict[str, str]) -> None:
    lines = list(_how_to_call(config(credentials=credentials, port=8211)))
    [override] = [
        shlex.split(line.removeprefix(said))[0] for line in lines if line.startswith(said := "a training run asks it with ")
    ]
    run = load(Path("configs/quickstart.yaml"), [override])
    assert isinstance(run, TrainConfig)
    remote = Remote(endpoints=("http://127.0.0.1:8211",), private_hosts=("127.0.0.1",), **credentials)
    assert run.reward == HttpReward(remote=remote)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"credentials": {"token_env": "NOT_SET_ANYWHERE"}},
            "credentials: the environment variable NOT_SET_ANYWHERE is not set",
        ),
        ({"credentials": {"token_file": "/nowhere"}}, "credentials: the file /nowhere cannot be read"),
        (
            {"reward": {"kind": "python", "verifier": "absent:Judge"}},
            "reward: reward.verifier absent:Judge: there is no module",
        ),
        ({"reward": {"kind": "geneval"}}, "reward.detector still to be given"),
        ({"reward": {"kind": "preference", "path": "/nowhere"}}, "/nowhere, which does not exist"),
    ],
)
def test_what_the_user_can_mend_is_said_before_ray_starts(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(config(**changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reward": {"kind": "random", "max_retries": 3, "outage": "drop"}}, "reward.max_retries, reward.outage: no effect"),
        ({"reward": {"kind": "random", "num_workers": 2}}, "num_workers of random: no effect in a service"),
        ({"reward": {"kind": "random", "placement": {"strategy": "SPREAD"}}}, "placement.strategy of random: no effect"),
        ({"cluster": {"call_timeout": 5}}, "cluster.call_timeout: no effect"),
        (
            {
                "reward": {
                    "kind": "combined",
                    "parts": {"a": {"kind": "random"}, "b": {"kind": "random"}},
                    "weights": {"a": 1, "b": 1},
                    "combine": "advantages",
                }
            },
            "only add scores; use combine: scores here, or serve each part from a service of its own",
        ),
        ({"host": "0.0.0.0"}, "others can reach host=0.0.0.0; set credentials.token_env or credentials.token_file"),
    ],
)
def test_keys_without_effect_and_open_doors_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config(**changes)


def test_the_token_comes_from_where_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_TOKEN", TOKEN)
    assert check(config(credentials={"token_env": "THE_TOKEN"})) == TOKEN
    assert check(config()) is None


def test_a_verifier_that_cannot_be_built_is_named_without_its_traceback() -> None:
    told = 'failed 1 times. Error:\nray::Serve()\n  File "a.py", line 1\n    build()\nValueError: token missing\nset it\n'
    assert cause(told) == "ValueError: token missing\nset it"
    assert cause("no room on any node") == "no room on any node"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, "subprocess.Popen[str]", Path]]:
    """The preset with a token on a free port: its URL, its process and its output."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    output = tmp_path_factory.mktemp("serve") / "output.txt"
    command = [sys.executable, "-m", "cluster.cli", "reward", "serve", "configs/shapes_reward_service.yaml"]
    overrides = [f"port={port}", "credentials.token_env=THE_TOKEN", "replicas.most=1"]
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command, *overrides],
            stdout=file,
            stderr=file,
            env=os.environ | {"THE_TOKEN": TOKEN},
            text=True,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}", process, output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def ready(url: str, process: "subprocess.Popen[str]", *, wanted: int = 200) -> bool:
    """Whether /readyz has the status before the deadline."""
    ended = time.monotonic() + START_SECONDS
    while time.monotonic() < ended:
        assert process.poll() is None, "the service ended"
        try:
            if requests.get(f"{url}/readyz", timeout=15).status_code == wanted:
                return True
        except (requests.ConnectionError, requests.Timeout):
            pass
        time.sleep(0.2)
    return False


def judged(url: str, seed: int) -> list[Score | ScoreFailure]:
    """Verdicts on right pictures that nobody has seen."""
    prompts = PROMPTS[:8]
    body, content_type = encode_request(prompts, [drawn(prompt, seed) for prompt in prompts])
    response = requests.post(url + SCORE_PATH, body, headers=HEADERS | {"Content-Type": content_type}, timeout=120)
    assert response.status_code == 200, response.text
    return read_answer(response.content, len(prompts)).verdicts


def replicas(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if _is_replica(each, process.pid)]


def _is_replica(each: psutil.Process, service: int) -> bool:
    try:
        return "ServeReplica:unigrpo-reward" in " ".join(each.cmdline()) and service in {
            parent.pid for parent in each.parents()
        }
    except psutil.Error:
        return False


@pytest.mark.slow
def test_it_judges_survives_a_killed_judge_and_ends(served: tuple[str, "subprocess.Popen[str]", Path]) -> None:
    url, process, output = served
    assert ready(url, process)
    assert {verdict.value for verdict in judged(url, 1) if isinstance(verdict, Score)} == {1.0}
    assert requests.get(f"{url}/v1/info", timeout=15).status_code == 401
    assert requests.get(f"{url}/v1/info", headers=HEADERS, timeout=15).json()["kind"] == "geneval"
    counters = requests.get(f"{url}/metrics", headers=HEADERS, timeout=15).text
    assert 'unigrpo_reward_verdicts_total{source="judged",verifier="geneval"} 8.0' in counters

    [replica] = replicas(process)
    replica.kill()
    verdicts = [verdict for seed in range(2, 12) for verdict in judged(url, seed)]
    assert all(verdict.value == 1.0 if isinstance(verdict, Score) else verdict.outage for verdict in verdicts)
    assert ready(url, process)
    assert {verdict.value for verdict in judged(url, 12) if isinstance(verdict, Score)} == {1.0}
    assert len([verdict for verdict in judged(url, 12) if isinstance(verdict, Score)]) == 8

    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(below, timeout=30)
    assert alive == []
    said = output.read_text()
    assert "unigrpo: ready: geneval judges at" in said
    assert said.endswith("unigrpo: ended\n")
    assert "Traceback" not in said
    assert TOKEN not in said
