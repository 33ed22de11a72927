"""Asking vision-language models behind an OpenAI-compatible API: questions from templates, answers by schema only."""
