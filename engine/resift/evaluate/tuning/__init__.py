"""Tuning: measures a machine, and chooses settings for it and a time budget."""
