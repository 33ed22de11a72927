"""What ends a run that its config allowed; a message for the user, and no fault of the code."""


class Fault(RuntimeError):
    """A run ended early; the message says what happened, where to look and how to go on."""


class Stalled(Fault):
    """A call did not end before its deadline."""


class Lost(Fault):
    """A worker died in a call that no other can take over."""


class Unscored(Fault):
    """Scores that a step or an evaluation needs failed for good."""
