"""Load on the server: requests that arrive whether or not the last one was answered. `python -m benchmarks.load --help`."""
