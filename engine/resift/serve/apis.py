"""The table of APIs: one route each, all over one Request."""

from resift.serve import cohere, tei

APIS = (cohere.V2, cohere.V1, tei.RERANK)
