"""What the graphs for CUDA compute on a GPU and how fast, in one script of a few minutes that downloads nothing."""
