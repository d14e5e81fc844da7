"""resift and its rivals on the same weights, pools and threads, one process and one environment each."""
