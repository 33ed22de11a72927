"""A reward service in a process of its own, without Ray: `python service_process.py PORT`."""

import sys

import uvicorn

from configs.reward_service import Limits
from configs.verifiers import RandomReward
from reward_server.service.app import create_app
from reward_server.service.replica import JudgeReplica


def main(port: int) -> None:
    reward, limits = RandomReward(), Limits()
    app = create_app(reward, {"random": JudgeReplica(reward, limits)}, limits=limits, request_timeout=30)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
