"""The table of APIs: each has a route, and all are read into a RankingRequest."""

from resift.serve import cohere, tei

APIS = (cohere.V2, cohere.V1, tei.RERANK)
