"""Adapters: one file a framework, each with an extra of its own."""
