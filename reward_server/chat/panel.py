"""Questions about pictures, put to a model behind an OpenAI-compatible API: all of a batch in flight at once."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from configs.verifiers import ChatJudge
from reward_server.chat.picture import SharedPicture
from reward_server.chat.request import PATH, chat_body
from reward_server.chat.template import load_template
from reward_server.content import picture_digest
from reward_server.fingerprint import fingerprint
from reward_server.remote.calls import Call, Caller
from reward_server.remote.keys import idempotency_key
from unigrpo.types import Prompt, ScoreFailure

_REVISION = 1
"""Of this package: raised when the same answer would be asked for in another way, or read as another score."""

A = TypeVar("A", covariant=True)


class Form(Protocol[A]):
    """A form of answer: how a request asks for it, and how it is read."""

    @property
    def request(self) -> Mapping[str, Any]:
        """Keys of the request's body."""

    def read(self, content: bytes) -> A:
        """The answer in a completion. Raises ValueError for anything that is not of the form."""


class Panel(Generic[A]):
    """One model, one template, one form of answer. Of a sample it sees the prompt and the picture, nothing else."""

    def __init__(
        self,
        config: ChatJudge,
        *,
        template: Path,
        form: Form[A],
        data: Sequence[str],
        settings: Mapping[str, str],
    ) -> None:
        """`data` names what each question holds, `settings` what the template is told by the config.

        Raises ValueError where the config names no model, for a broken template, and for what Caller refuses.
        """
        if config.model is None:
            raise ValueError("reward.model is null; set it to the name of the model at the endpoint")
        self._model = config.model
        self._template = load_template(template, data=data, settings=settings)
        self._settings = settings
        self._form = form
        decides = {"model": config.model, "form": dict(form.request), "settings": dict(settings), "revision": _REVISION}
        self.version = fingerprint(template, settings=decides)
        """Names all that decides an answer; which endpoint gives it does not count."""
        self._caller = Caller(config.remote)

    @property
    def num_retries(self) -> int:
        """Calls repeated so far."""
        return self._caller.num_retries

    def ask(
        self,
        questions: Callable[[Prompt], Sequence[Mapping[str, str]]],
        prompts: Sequence[Prompt],
        images: Sequence[Tensor],
    ) -> list[list[A] | ScoreFailure]:
        """The answers to every picture's questions, in order, or its failure when any of them was not answered.

        `questions` gives the data of each question about a prompt's picture; it raises ValueError where there are none.
        """
        papers = [self._calls(questions, prompt, image) for prompt, image in zip(prompts, images, strict=True)]
        calls = [call for paper in papers if not isinstance(paper, ScoreFailure) for call in paper]
        answers = self._caller.ask(calls)
        left = iter(answers)
        return [paper if isinstance(paper, ScoreFailure) else _all_or_none([next(left) for _ in paper]) for paper in papers]

    def close(self) -> None:
        """Ends connections and threads."""
        self._caller.close()

    def _calls(
        self, questions: Callable[[Prompt], Sequence[Mapping[str, str]]], prompt: Prompt, image: Tensor
    ) -> list[Call[A]] | ScoreFailure:
        try:
            asked = questions(prompt)
        except ValueError as error:
            return ScoreFailure(reason=f"prompt {prompt.index} cannot be asked about: {error}")
        picture, digest = SharedPicture(image, num_questions=len(asked)), picture_digest(image)
        return [
            Call(
                path=PATH,
                body=partial(self._body, picture, data),
                read=self._form.read,
                idempotency_key=idempotency_key(self.version, dict(data), digest),
            )
            for data in asked
        ]

    def _body(self, picture: SharedPicture, data: Mapping[str, str]) -> tuple[bytes, str]:
        system, question = self._template.render(data=data, settings=self._settings)
        form = self._form.request
        body = chat_body(model=self._model, system=system, question=question, picture_png=picture.take(), form=form)
        return body, "application/json"


def _all_or_none(answers: Sequence[A | ScoreFailure]) -> list[A] | ScoreFailure:
    failures = [answer for answer in answers if isinstance(answer, ScoreFailure)]
    if failures:
        reason = f"{len(failures)} of {len(answers)} answers failed, the first: {failures[0].reason}"
        return ScoreFailure(reason=reason, outage=any(failure.outage for failure in failures))
    return [answer for answer in answers if not isinstance(answer, ScoreFailure)]
