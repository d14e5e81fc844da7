"""Scheduling: from the pairs of calls to batches, and from their logits back to each call."""
