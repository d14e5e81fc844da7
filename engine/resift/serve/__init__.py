"""The server (extra: serve): HTTP in the formats of Cohere, Jina and text-embeddings-inference, over Reranker.submit."""
