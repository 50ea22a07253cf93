"""Answers by route over HTTP, from one resident base model."""
