"""Adapters trained on the corpus, and the base model and prompt that training and serving share."""
