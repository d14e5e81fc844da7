"""Adapters to frameworks: one file or folder per framework, each with its own extra."""
