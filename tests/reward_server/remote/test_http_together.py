"""The verifier `http` with several requests and endpoints at once."""

import threading

import pytest
from torch import Tensor

from configs.verifiers import HttpReward
from reward_server.server import RewardServer
from reward_server.verifiers import http
from reward_server.verifiers.http import HttpVerifier
from tests.reward_server.remote.fake_service import picture, prompt, served, when_all_are_here
from tests.reward_server.remote.fakes import FakeNet, fake_judge, remote
from unigrpo.pictures import encode_png
from unigrpo.types import Score, ScoreFailure


def test_all_requests_of_a_group_are_under_way_together(net: FakeNet) -> None:
    all_six = when_all_are_here(6)
    with fake_judge(net, served(first=all_six)) as one, fake_judge(net, served(first=all_six)) as two:
        server = RewardServer(HttpReward(remote=remote(one.url, two.url, max_attempts=1), batch_size=4))
        verdicts = server.score([prompt(index) for index in range(24)], [picture(shade) for shade in range(24)])
    assert all(isinstance(verdict, Score) for verdict in verdicts)
    assert (one.most_at_once, two.most_at_once) == (3, 3)


def test_requests_begin_before_all_pictures_are_encoded(net: FakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    def late(image: Tensor) -> bytes:
        """The last picture is encoded when the service has been asked about another one."""
        if image[0, 0, 0] == 2 and not began.wait(3.0):
            raise AssertionError("the service waits for the last picture")
        return encode_png(image)

    async def begins() -> None:
        began.set()

    monkeypatch.setattr(http, "encode_png", late)
    with fake_judge(net, served(first=begins)) as judge:
        verifier = HttpVerifier(HttpReward(remote=remote(judge.url), batch_size=1))
        verdicts = verifier.score([prompt()] * 3, [picture(shade) for shade in range(3)])
        verifier.close()
    assert all(isinstance(verdict, Score) for verdict in verdicts)


def test_verdicts_of_two_versions_are_not_mixed(net: FakeNet, caplog: pytest.LogCaptureFixture) -> None:
    both = when_all_are_here(2)
    with fake_judge(net, served("new", both)) as one, fake_judge(net, served("old", both)) as two:
        verifier = HttpVerifier(HttpReward(remote=remote(one.url, two.url, concurrency=1), batch_size=1))
        mixed = verifier.score([prompt()] * 2, [picture(0), picture(1)])
        alone = [verifier.score([prompt()], [picture()]) for _ in range(2)]
        verifier.close()
    for verdict in mixed:
        assert isinstance(verdict, ScoreFailure)
        assert not verdict.outage
        assert "answered as versions new and old" in verdict.reason
    assert all(isinstance(verdict, Score) for verdicts in alone for verdict in verdicts)
    assert "changed its version" not in caplog.text
