"""The server (extra: serve): HTTP in the formats of Cohere, Jina and text-embeddings-inference, on top of Reranker.submit."""
