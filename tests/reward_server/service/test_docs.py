"""The client in docs/reward_protocol.md does what the page says, with plain `requests`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from configs.reward_service import Limits
from configs.verifiers import GenevalReward
from reward_server.protocol import PROTOCOL, read_answer
from reward_server.service.replica import JudgeReplica
from tests.reward_server.service.fakes import PROMPTS, TOKEN, drawn, live

PAGE = Path("docs/reward_protocol.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_client_of_ten_lines(tmp_path: Path) -> None:
    code = block("python")
    assert sum(bool(line.strip()) and not line.startswith(("import", "from")) for line in code.splitlines()) <= 10
    reward, picture = GenevalReward(detector="shapes"), tmp_path / "picture.png"
    with live(reward, {"geneval": JudgeReplica(reward, Limits())}) as service:

        def run(image: bytes, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
            picture.write_bytes(image)
            environment = os.environ | {"TOKEN": token, "METADATA": json.dumps(PROMPTS[0].metadata)}
            command = [sys.executable, "-c", code, service.url, PROMPTS[0].text, str(picture)]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

        assert run(drawn(PROMPTS[0])).stdout == "1.0\n"
        assert run(drawn(PROMPTS[0])[:20]).stderr.startswith('422: {"error": "')
        assert run(drawn(PROMPTS[0]), token="wrong").stderr.startswith('401: {"error": "')


def test_the_answer_on_the_page_is_one() -> None:
    answer = read_answer(block("json").encode(), 2)
    assert [getattr(verdict, "value", None) for verdict in answer.verdicts] == [0.75, None]
    assert PROTOCOL in PAGE


def test_limits_on_the_page_are_those_of_the_config() -> None:
    limits = Limits()
    said = {
        "body_bytes": f"({limits.body_bytes >> 20} MiB)",
        "image_bytes": f"({limits.image_bytes >> 20} MiB)",
        "items": f"({limits.items})",
        "waiting_requests": f"({limits.waiting_requests})",
    }
    assert all(f"`{key}` {value}" in " ".join(PAGE.split()) for key, value in said.items())
    assert limits.image_pixels == 4096 * 4096
