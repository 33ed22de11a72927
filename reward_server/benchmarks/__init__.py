"""Benchmarks that this project ships: prompt files, each with its data card beside it."""

from pathlib import Path

EXAM = Path(__file__).with_name("exam.jsonl")
"""150 prompts with 3 to 8 exam points each (EXAM.md)."""
