"""Rubrics and judges that read: an OpenAI-compatible endpoint, or open weights whose whole distribution over labels is known."""
