"""Encoding: from texts to the token ids of pairs."""
