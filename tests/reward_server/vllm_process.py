"""vLLM's OpenAI-compatible server in a process of its own, on the CPU."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_FLAGS = (
    "--host=127.0.0.1 --dtype=float32 --enforce-eager --max-model-len=4096 --max-num-batched-tokens=4096 --max-num-seqs=8 "
    "--no-enable-chunked-prefill --block-size=32 --kv-cache-memory-bytes=134217728"
)


@contextmanager
def vllm_server(model: Path, *, name: str, token: str, log: Path, start_timeout: float) -> Iterator[str]:
    """Base URL of a server that serves `model` as `name` to callers with the bearer token; it ends with the context.

    Raises RuntimeError with the end of its log where it ends by itself, or is not ready within `start_timeout` seconds.
    """
    port = _free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={model}", f"--served-model-name={name}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--port={port}", *_FLAGS.split()],
            env={**os.environ, **_ENVIRONMENT, "VLLM_API_KEY": token},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health", log, start_timeout)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended with {process.returncode}: {log.read_text()[-4000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"vLLM was not ready after {timeout} s: {log.read_text()[-4000:]}")
