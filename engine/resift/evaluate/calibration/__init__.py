"""Calibrate: fits probabilities to the logits of labelled pools, and says how far they can be trusted."""
