"""sentence-transformers (no extra): a drop-in for its CrossEncoder, and artifacts of checkpoints made at their first use."""

from resift.integrations.sentence_transformers.cross_encoder import CrossEncoder

__all__ = ["CrossEncoder"]
