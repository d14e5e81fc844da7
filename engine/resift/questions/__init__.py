"""Questions that documents answer, for documents without queries: by an endpoint that the caller names, or from their own words."""
