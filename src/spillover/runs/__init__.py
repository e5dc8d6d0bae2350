"""The run directory: the only room that writes. See `directory`."""
