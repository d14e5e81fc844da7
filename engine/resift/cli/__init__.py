"""The command line: one file per command, with `add` (its arguments) and `run` (its work; returns the exit code)."""
