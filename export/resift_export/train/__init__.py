"""train: trains a cross-encoder further on pairs of its user, by sentence-transformers' trainer and losses (extra: train)."""
