"""Directions in the residual stream: recorded, fitted, saved, compared; added to a model or projected out of it, always beside their controls."""
