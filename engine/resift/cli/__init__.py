"""The command line: one file per command, with `add` (declares its arguments) and `run` (runs it and returns the exit code)."""
