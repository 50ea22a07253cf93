"""Scores every route on held-out questions and gives a verdict with statistics."""
