"""A request that is answered with an error: one status, one message for the caller, nothing internal."""

RETRY_AFTER = 2
"""Seconds after which a caller told to come back later may do so."""


class Refused(Exception):
    """Ends a request. The statuses and their meaning stand in docs/reward_protocol.md."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message

    @property
    def headers(self) -> dict[str, str]:
        """What belongs to its status."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_AFTER)} if self.status == 503 else {}
