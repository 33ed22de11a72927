"""Failures that one role reports and another acts on."""


class NotServing(RuntimeError):
    """A worker was asked for another version of the weights than it serves: it is fresh, restarted or behind; fill it and ask again."""
