"""BAGEL's own system prompt for thinking before painting, word for word, the blank before the line break too."""

THINK_PROMPT = (
    "You should first think about the planning process in the mind and then generate the image. \n"
    "The planning process is enclosed within <think> </think> tags, i.e. <think> planning process here </think> image here"
)
