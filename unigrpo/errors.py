"""Failures that one role reports and another acts on."""


class NotServing(RuntimeError):
    """A worker serves another version of the weights than was asked for: fresh, restarted or behind; fill it and ask again."""
