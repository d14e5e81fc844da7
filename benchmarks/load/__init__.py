"""Load tests of the server: requests arrive whether or not the last one was answered. See `python -m benchmarks load --help`."""
