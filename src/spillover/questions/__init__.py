"""Question sets: the authors' files, and our own."""
