"""The bearer token of calls, which a file may come to hold anew."""

import logging
from collections.abc import Mapping, Sequence

from configs.remote import Credentials
from reward_server.tokens import read_token

log = logging.getLogger(__name__)


class Bearer:
    """The token that is sent, and those that were, which no message may show either."""

    def __init__(self, credentials: Credentials) -> None:
        """Raises ValueError for a token that cannot be used."""
        self._credentials = credentials
        token = read_token(credentials)
        self._tokens = [] if token is None else [token]

    @property
    def tokens(self) -> Sequence[str]:
        """All there were."""
        return self._tokens

    @property
    def headers(self) -> Mapping[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self._tokens[-1]}"} if self._tokens else {}

    def read_again(self) -> None:
        """After a refusal: take what `token_file` holds now. The old token stays where that is none; the log says so."""
        if self._credentials.token_file is None:
            return
        try:
            token = read_token(self._credentials)
        except ValueError as error:
            log.warning("the token was refused, and no other one can be had: %s", error)
            return
        if token is not None and token not in self._tokens[-1:]:
            self._tokens.append(token)
            log.warning("the token was refused; %s holds another one, which is sent from now on", self._credentials.token_file)
