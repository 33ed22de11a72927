"""The started workers of every role. They serve one config after another: what differs is rebuilt inside their processes."""

from collections.abc import Iterator, Mapping, Sequence

import ray
from ray.actor import ActorHandle

from cluster.actors import place
from cluster.placement import Role, require_room
from cluster.wait import wait_all
from configs.load import ConfigError
from configs.roles import ClusterConfig

Handles = Mapping[str, Sequence[ActorHandle]]
"""The workers of each role by its name."""


class Workers:
    """Workers that were started, by role; none at first."""

    def __init__(self) -> None:
        self._roles: dict[str, Role] = {}
        self._handles: dict[str, list[ActorHandle]] = {}

    def missing(self, roles: Sequence[Role]) -> list[str]:
        """Names of those of `roles` that were not started yet."""
        return [role.name for role in roles if role.name not in self._roles]

    def serve(self, roles: Sequence[Role], config: ClusterConfig) -> Handles:
        """Workers of these roles, built from their arguments: missing ones are placed, the others rebuilt where they are.

        Others that were started stay as they are. Raises ConfigError when all ask for more than the cluster has, or for what a
        started worker cannot become; Stalled when others use the cluster, and whatever a worker raised.
        """
        if faults := list(differences(self._roles, roles)):
            raise ConfigError(_refusal(faults))
        if missing := [role for role in roles if role.name not in self._roles]:
            require_room([role.ask for role in (*self._roles.values(), *missing)], ray.cluster_resources())
        for role in missing:
            self._handles[role.name] = place(role, config)
            self._roles[role.name] = role
        calls = {
            f"start of {role.name} {index}": worker.start.remote(*role.arguments(index))
            for role in roles
            for index, worker in enumerate(self._handles[role.name])
        }
        wait_all(calls, timeout=config.start_timeout)
        return {role.name: self._handles[role.name] for role in roles}


def require_alike(systems: Sequence[tuple[str, Sequence[Role]]]) -> None:
    """Raises ConfigError unless the roles of all these configs, each with its name, can be served by the same workers."""
    started: dict[str, Role] = {}
    for name, roles in systems:
        if faults := list(differences(started, roles)):
            raise ConfigError(f"{name}: {_refusal(faults)}")
        started |= {role.name: role for role in roles}


def differences(started: Mapping[str, Role], roles: Sequence[Role]) -> Iterator[str]:
    """What the started roles have, and roles of the same names would have to be given."""
    for role in roles:
        if (there := started.get(role.name)) is None:
            continue
        if role.placement != there.placement:
            yield f"{role.name}.placement was {there.placement} and is {role.placement}"
        if role.num_workers != there.num_workers:
            yield f"the workers of {role.name} were {there.num_workers} and are {role.num_workers}"
        if role.environment != there.environment:
            yield f"the environment of {role.name} was {dict(there.environment)} and is {dict(role.environment)}"
        for key, kept in there.keeps.items():
            if role.keeps[key] != kept:
                yield f"{key} was {kept} and is {role.keeps[key]}"


def join_ranks(ranks: Sequence[ActorHandle], config: ClusterConfig) -> str:
    """Let the learner's ranks find each other and build model and optimizer; how they compute."""
    [(host, port)] = wait_all({"address of learner rank 0": ranks[0].address.remote()}, timeout=config.start_timeout)
    calls = {f"start of learner rank {rank}": actor.join.remote(host, port) for rank, actor in enumerate(ranks)}
    described = wait_all(calls, timeout=config.start_timeout)
    return "; ".join(dict.fromkeys(described))


def describe_denoisers(denoisers: Sequence[ActorHandle], config: ClusterConfig) -> str:
    """How the denoisers compute."""
    calls = {f"description of denoiser {index}": actor.describe.remote() for index, actor in enumerate(denoisers)}
    return "; ".join(dict.fromkeys(wait_all(calls, timeout=config.start_timeout)))


def _refusal(faults: Sequence[str]) -> str:
    return f"one started system serves configs whose workers are alike: {'; '.join(faults)}; make them equal, or run them apart"
