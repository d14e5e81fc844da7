"""Tuning: settings that suit a machine and a time budget, measured and chosen."""
