"""Retrieval: the best documents of a corpus for a query, by words or by vectors, which need no candidate pools to begin with."""
