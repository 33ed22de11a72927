"""The verifiers of a reward service as deployments of Ray Serve, one each, scaled apart from one another."""

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from cluster.faults import Stalled
from configs.load import ConfigError
from configs.reward import parts_of
from configs.reward_service import RewardServiceConfig
from configs.verifiers import Judge as JudgeConfig
from reward_server.service.batching import Batched
from reward_server.service.judges import Description, EncodedItem, Unavailable, Verdict
from reward_server.service.replica import JudgeReplica
from unigrpo.types import ScoreFailure

POLL_SECONDS = 0.5
"""Between looks at how far replicas have started: Serve has no event for it."""
HEALTH_SECONDS = 2.0
"""Between looks at whether a replica is alive and answers."""
END_SECONDS = 60.0
"""For replicas to end what they are at."""


class Replicas:
    """All replicas of one verifier: a reward_server.service.judges.Judge."""

    def __init__(self, application: str) -> None:
        self._application = application
        self._description: Description | None = None
        self._asking, self._looking = asyncio.Lock(), asyncio.Lock()
        self._looked, self._runs = -math.inf, False
        self.handle: DeploymentHandle | None = None
        """Set once it is deployed."""

    async def is_ready(self) -> bool:
        """Whether Serve knows a replica that runs; looked up at most every POLL_SECONDS, whoever asks."""
        if self.handle is None:
            return False
        async with self._looking:
            if time.monotonic() - self._looked > POLL_SECONDS:
                status = (await asyncio.to_thread(serve.status)).applications.get(self._application)
                deployments = status.deployments.values() if status else ()
                self._runs = any(each.replica_states.get("RUNNING") for each in deployments)
                self._looked = time.monotonic()
        return self._runs

    async def describe(self) -> Description:
        """As a replica said last. Raises Unavailable before."""
        async with self._asking:
            if self._description is None:
                try:
                    self._description = await self._call("describe")
                except RayActorError as error:
                    raise Unavailable(str(error)) from error
        return self._description

    async def judge(self, items: Sequence[EncodedItem]) -> list[Verdict]:
        """One verdict an item, in order; outages when the replica at it dies, or is of another version than the service knew.

        Raises Unavailable when the queue is full.
        """
        known = await self.describe()
        try:
            self._description, verdicts = await self._call("judge_described", list(items))
        except RayActorError:
            return [ScoreFailure(reason="the judge's process died; ask again", outage=True)] * len(items)
        if self._description != known:
            reason = f"the verifier is {self._description} now, and was {known}; ask again"
            return [ScoreFailure(reason=reason, outage=True)] * len(items)
        return verdicts

    async def _call(self, method: str, *arguments: Any) -> Any:
        if self.handle is None:
            raise Unavailable("not deployed yet")
        response = getattr(self.handle, method).remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (BackPressureError, RayServeException) as error:
            raise Unavailable(str(error)) from error


class Deployment:
    """The applications of Ray Serve that judge for one service, an application a verifier."""

    def __init__(self, config: RewardServiceConfig) -> None:
        self._config = config
        self._parts = parts_of(config.reward)
        self._names = {part: f"unigrpo-reward-{socket.gethostname()}-{config.port}-{part}" for part in self._parts}
        self._replicas = {part: Replicas(name) for part, name in self._names.items()}
        self._calls = math.ceil(config.replicas.most * config.replicas.target_ongoing)
        self.judges = {
            name: Batched(
                self._replicas[name],
                batch_size=part.batch_size,
                max_calls=self._calls,
                patience=config.request_timeout,
                timeout=config.request_timeout + part.judge_timeout,
            )
            for name, part in self._parts.items()
        }

    async def start(self, stop: asyncio.Event, *, say: Callable[[str], None]) -> None:
        """Deploy, and wait until every verifier has its least replicas, or `stop` is set.

        Raises ConfigError for a verifier that cannot be built, and Stalled when that takes longer than cluster.start_timeout.
        """
        wanted = self._config.replicas.least
        say(f"starting {', '.join(f'{wanted} x {name}' for name in self._parts)}")
        handles = await asyncio.to_thread(self._deploy)
        for part, handle in handles.items():
            self._replicas[part].handle = handle
        deadline = asyncio.get_running_loop().time() + self._config.cluster.start_timeout
        said = ""
        while not stop.is_set():
            states = await asyncio.to_thread(self._states)
            line = ", ".join(f"{part}: {state.value.lower()}" for part, state in states.items())
            if line != said:
                say(said := line)
            if all(state == ApplicationStatus.RUNNING for state in states.values()):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise Stalled(f"the judges did not start in {self._config.cluster.start_timeout:g} s ({line})")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)

    async def end(self) -> None:
        """Let replicas end what they are at, and take them down."""
        if self._config.cluster.address == "local":
            return  # nobody is at work, and all ends with this Ray
        known = await asyncio.to_thread(serve.status)
        for name in self._names.values():
            if name in known.applications:
                await asyncio.wait_for(asyncio.to_thread(serve.delete, name), END_SECONDS)

    def _deploy(self) -> dict[str, DeploymentHandle]:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")
        targets = [
            serve.RunTarget(target=self._application(part, self._parts[part]), name=self._names[part], route_prefix=None)
            for part in self._parts
        ]
        handles = serve.run_many(targets, wait_for_ingress_deployment_creation=True, wait_for_applications_running=False)
        return dict(zip(self._parts, handles, strict=True))

    def _application(self, name: str, part: JudgeConfig) -> serve.Application:
        replicas, placement, limits = self._config.replicas, part.placement, self._config.limits
        environment = {**ray.get_runtime_context().runtime_env, "env_vars": {"OMP_NUM_THREADS": str(placement.num_threads)}}
        scaling = {
            "min_replicas": replicas.least,
            "max_replicas": replicas.most,
            "target_ongoing_requests": replicas.target_ongoing,
        }
        deployment = serve.deployment(
            JudgeReplica,
            name=name,
            autoscaling_config=scaling,
            max_ongoing_requests=math.ceil(replicas.target_ongoing),
            max_queued_requests=self._calls + 1,  # and one that asks what the verifier is
            ray_actor_options={
                "num_cpus": placement.num_cpus,
                "num_gpus": placement.num_gpus,
                "resources": placement.resources,
                "runtime_env": environment,
            },
            health_check_period_s=HEALTH_SECONDS,
            health_check_timeout_s=part.judge_timeout,
            graceful_shutdown_timeout_s=END_SECONDS / 2,
            max_constructor_retry_count=1,
        )
        return deployment.bind(part, limits)

    def _states(self) -> dict[str, ApplicationStatus]:
        """How far each verifier is. Raises ConfigError for one that cannot be built."""
        applications = serve.status().applications
        states = {}
        for part, name in self._names.items():
            found = applications[name]
            if found.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                told = "\n".join(each.message for each in found.deployments.values()) or found.message
                raise ConfigError(f"{part} cannot be built: {cause(told)}")
            states[part] = found.status
        return states


def cause(told: str) -> str:
    """The error at the end of a traceback that Serve passes on as text; all of a text without one."""
    lines = told.strip().splitlines()
    inside = [place for place, line in enumerate(lines) if line.startswith("  ")]
    return "\n".join(lines[inside[-1] + 1 :] if inside else lines)
