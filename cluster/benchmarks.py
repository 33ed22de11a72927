"""Benchmarks by name: settings of an evaluation that make scores of different policies comparable."""

LIGHT = "placement: {num_cpus: 0.25}"
"""Of judges that wait for others, or have hardly anything to do."""
BENCHMARKS = {
    "shapes": (
        "evaluation.prompts={kind: shapes, split: held_out}",
        f"evaluation.reward={{kind: geneval, detector: shapes, {LIGHT}}}",
        "evaluation.images_per_prompt=2",
    ),
    "geneval": (
        "evaluation.prompts={kind: file, path: null}",
        "evaluation.reward={kind: geneval, detector: mask2former}",
        "evaluation.images_per_prompt=4",
    ),
    "exam": (
        "evaluation.prompts={kind: exam}",
        f"evaluation.reward={{kind: exam, {LIGHT}}}",
        "evaluation.images_per_prompt=4",
    ),
}
"""What each name sets in a config; the user's own overrides come on top."""
