"""sentence-transformers (no extra): a drop-in for its CrossEncoder, which exports a checkpoint at its first use."""

from resift.integrations.sentence_transformers.cross_encoder import CrossEncoder

__all__ = ["CrossEncoder"]
