"""The server (extra: serve): HTTP in the formats of Cohere, Jina, Voyage, TEI, vLLM and others, on top of Reranker.aencode."""
