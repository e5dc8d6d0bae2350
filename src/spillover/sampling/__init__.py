"""Draw answers from anything that answers."""
