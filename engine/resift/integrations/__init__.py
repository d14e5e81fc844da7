"""Adapters for other libraries: one file a library, each importing it only where it needs it."""
