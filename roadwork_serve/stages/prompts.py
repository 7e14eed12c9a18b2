"""Prompts of the vision language models. The miniatures are trained on exactly these texts."""

QUESTION = (
    "Is there active road work? Workers, running machines or an open coned-off area on or beside the road count; "
    "works that have ended, parked or carried cones and machines, and bins do not. Answer YES or NO."
)
THINKING_QUESTION = (
    "Is there active road work? Think first: count cones, barriers, workers and machines, look for signs and for "
    "what is parked or carried. Then answer YES or NO."
)
CLIP_QUESTION = (
    "Is there active road work in this clip? Workers or machines that move, or an open coned-off area, count; "
    "machines that only stand there do not. Answer YES or NO."
)
