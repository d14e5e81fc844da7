"""The float32 graph: traced from a checkpoint, edited and optimized."""
