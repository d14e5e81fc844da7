"""distill: trains a student of fewer layers to give a teacher's hidden states and logits (extra: train)."""
