"""The shorter contexts that guidance compares a painting's own with, for painter and learner alike."""

from collections.abc import Sequence

from unigrpo.types import Given, GivenPicture, Thought

ContextSpan = Given | GivenPicture | Thought
Spans = Sequence[ContextSpan]
"""What a painter reads before it paints."""


def without_last_text(spans: Spans) -> Spans:
    """What came before the last text that the policy was given: for text to image the system prompt, or nothing."""
    last = max(place for place, span in enumerate(spans) if isinstance(span, Given))
    return spans[:last]


def without_pictures(spans: Spans) -> Spans:
    """All texts that the policy was given, without pictures and without its own thoughts."""
    return [span for span in spans if isinstance(span, Given)]
