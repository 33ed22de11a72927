"""`unigrpo reward serve`: verifiers as deployments of Ray Serve, and the application in front of them in this process.

The application is not behind Serve's own HTTP proxy: that reads a body as fast as it is sent into a queue without end, before
the application can refuse it (2 GB sent are 2 GB held). Here uvicorn reads only what the application asks for. One
application, so that there is one ledger and nothing is judged twice; it decodes nothing and costs little, the judges are what
scales. And the token stays in this process.
"""

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Iterator

import ray

from cluster.judge_checks import check_judges
from cluster.placement import Ask, connect, require_room
from cluster.reward_replicas import Deployment
from configs.load import ConfigError, check_files, still_to_be_given
from configs.reward import parts_of
from configs.reward_service import RewardServiceConfig
from reward_server.protocol import SCORE_PATH
from reward_server.service.app import create_app
from reward_server.service.http import server
from reward_server.tokens import read_token

SPARE_CONNECTIONS = 256
"""Connections beside those of `limits.waiting_requests`: for probes, metrics and those that are told to come back."""


def run_reward_service(config: RewardServiceConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises ConfigError for what the user can mend, and Stalled when judges do not start."""
    token = check(config)
    with listening(config.host, config.port) as listener:
        try:
            connect(config.cluster)
            require_room(
                [
                    Ask(role=name, placement=part.placement, num_workers=config.replicas.least)
                    for name, part in parts_of(config.reward).items()
                ],
                ray.cluster_resources(),
            )
            asyncio.run(_serve(config, token, listener))
        finally:
            ray.shutdown()


def check(config: RewardServiceConfig) -> str | None:
    """The token that callers must send, once everything that can be known before Ray starts was. Raises ConfigError."""
    if missing := still_to_be_given(config):
        raise ConfigError(f"{', '.join(missing)} still to be given; set it in the file or as an override")
    check_files(config)
    check_judges(config)
    try:
        return read_token(config.credentials)
    except ValueError as error:
        raise ConfigError(f"credentials: {error}") from None


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to host and port. Raises ConfigError where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        cause = "another process listens there" if error.errno == errno.EADDRINUSE else str(error)
        raise ConfigError(f"cannot listen at host={host}, port={port}: {cause}; choose another one") from None
    with listener:
        yield listener


async def _serve(config: RewardServiceConfig, token: str | None, listener: socket.socket) -> None:
    """Answer from now on, judge as soon as the judges are there, end when told to."""
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    deployment = Deployment(config)
    app = create_app(
        config.reward, deployment.judges, limits=config.limits, request_timeout=config.request_timeout, token=token
    )
    web = server(app, max_connections=config.limits.waiting_requests + SPARE_CONNECTIONS)
    answering = asyncio.create_task(web.serve(sockets=[listener]))
    answering.add_done_callback(lambda _: stop.set())
    try:
        await deployment.start(stop, say=_say)
        if not stop.is_set():
            for line in _how_to_call(config):
                _say(line)
        await stop.wait()
        _say("ending: requests at work are answered first")
    finally:
        web.should_exit = True
        await answering
        await deployment.end()
    _say("ended")


def _how_to_call(config: RewardServiceConfig) -> Iterator[str]:
    host = f"[{config.host}]" if ":" in config.host else config.host
    base, credentials = f"http://{host}:{config.port}", config.credentials
    source = credentials.token_env or credentials.token_file
    yield f"ready: {config.reward.kind} judges at {base}{SCORE_PATH}, " + (
        f"with the bearer token of {source}" if source else "without a token, for this machine only"
    )
    named = "".join(f", {key}: {value}" for key, value in credentials if value is not None)
    remote = f'{{endpoints: ["{base}"], private_hosts: ["{config.host}"]{named}}}'
    yield f"a training run asks it with 'reward={{kind: http, remote: {remote}}}'"
    yield f"a client of ten lines: docs/reward_protocol.md; the API: {base}/docs; counters: {base}/metrics; end with Ctrl-C"


def _say(line: str) -> None:
    print(f"unigrpo: {line}", flush=True)
