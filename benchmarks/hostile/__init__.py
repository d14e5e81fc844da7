"""Hostile clients against a server: the worst bodies, and connections that are held."""
