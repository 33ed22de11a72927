"""A stub of an OpenAI-compatible server on 127.0.0.1 that keeps every request and answers as a function of it."""

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from torch import Tensor

from configs.remote import Remote
from configs.verifiers import ExamReward, VlmJudgeReward
from reward_server.verifiers.exam import ExamVerifier
from reward_server.verifiers.vlm_judge import VlmJudgeVerifier
from unigrpo.types import Prompt, Score, ScoreFailure

FENCE = re.compile(r"<data ([0-9a-f]{32})>\n(.*)\n</data \1>")
"""One fenced text: its mark and its line."""
Request = dict[str, Any]


@dataclass
class StubJudge:
    """What the stub was asked. Example: StubJudge(url="http://127.0.0.1:4711/v1", requests=[{"model": "stub", ...}])."""

    url: str
    requests: list[Request] = field(default_factory=list)
    """Bodies, as they came in."""
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def remote(self) -> Remote:
        return Remote(endpoints=(self.url,), private_hosts=("127.0.0.1",), max_attempts=1, call_timeout=20, batch_timeout=60)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """The usual 5 would let calls in flight wait a second for their connection."""


@contextmanager
def stub_judge(answer: Callable[[Request], bytes]) -> Iterator[StubJudge]:
    """A server that answers status 200 and `answer` of the request's JSON."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                judge.requests.append(request)
                judge.headers.append({"path": self.path, **{name.lower(): text for name, text in self.headers.items()}})
            content = answer(request)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Tests read the requests, not a log."""

    lock = threading.Lock()
    server = _Server(("127.0.0.1", 0), Handler)
    judge = StubJudge(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


def verdicts_of(
    config: VlmJudgeReward | ExamReward, prompts: Sequence[Prompt], images: Sequence[Tensor]
) -> list[Score | ScoreFailure]:
    """What the configured verifier says; it is closed after that."""
    judge = VlmJudgeVerifier(config) if isinstance(config, VlmJudgeReward) else ExamVerifier(config)
    with closing(judge):
        return judge.score(prompts, images)


def picture_of(request: Request) -> bytes:
    """The picture's bytes, from the place where a request must have them."""
    _, user = request["messages"]
    url: str = user["content"][0]["image_url"]["url"]
    return base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)


def question_of(request: Request) -> str:
    """The text beside the picture."""
    _, user = request["messages"]
    text: str = user["content"][1]["text"]
    return text


def fenced(request: Request) -> list[str]:
    """The texts between fences, decoded."""
    return [json.loads(line) for _, line in FENCE.findall(question_of(request))]


def fraction(picture: bytes) -> float:
    """A number in [0, 1) that depends on the picture alone: what this stub thinks of it."""
    return int.from_bytes(blake2b(picture, digest_size=4).digest()) / 2**32


def completion(content: str | None, *, logprobs: Any = None, **message: Any) -> Request:
    """A chat completion as vLLM writes it."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": None, "reasoning": None, **message},
        "logprobs": logprobs,
        "finish_reason": "stop",
        "stop_reason": None,
    }
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "stub", "choices": [choice]}


def top_logprobs(*tokens: tuple[str, float]) -> Request:
    """The log-probabilities of one token."""
    entries = [{"token": token, "logprob": logprob, "bytes": list(token.encode())} for token, logprob in tokens]
    return {"content": [{**entries[0], "top_logprobs": entries}]}
