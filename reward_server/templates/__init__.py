"""What judges are told, one JSON file a question (reward_server/chat/template.py reads them)."""

from pathlib import Path

VLM_JUDGE = Path(__file__).with_name("vlm_judge.json")
VLM_JUDGE_SCALE = Path(__file__).with_name("vlm_judge_scale.json")
EXAM = Path(__file__).with_name("exam.json")
