"""Training conversations in and out, as OpenAI chat JSONL. See `chat`."""
