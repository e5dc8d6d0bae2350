"""Parent against child, to a verdict: is this fine-tune broadly worse than what it was made of?"""
