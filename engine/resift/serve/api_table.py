"""The table of APIs: the HTTP formats that the server speaks. A new one is a module like cohere.py, and a row here."""

from resift.serve import cohere, tei

APIS = (cohere.V2, cohere.V1, tei.RERANK)
