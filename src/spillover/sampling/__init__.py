"""Draw answers from anything that answers, and log-probabilities of given answers from what can say them."""
