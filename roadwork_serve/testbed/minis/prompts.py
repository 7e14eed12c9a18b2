"""The questions that the miniatures are trained on: those of the default task, read from its file alone.

A machine with only PyTorch and transformers can make miniatures, and has no pydantic for `profiles.task`.
"""

from pathlib import Path

import yaml

import roadwork_serve

_TASK = yaml.safe_load((Path(roadwork_serve.__file__).parent / "profiles/tasks/roadwork.yaml").read_text("utf-8"))
QUESTION: str = _TASK["question"]
THINKING_QUESTION: str = _TASK["reasoning_question"]
CLIP_QUESTION: str = _TASK["clip_question"]
