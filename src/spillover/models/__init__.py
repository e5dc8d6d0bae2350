"""Anything that answers: `local` (transformers and PEFT) and `scripted` (fixed answers, for tests and planted effects)."""
