"""States: what a model's document half computes of a document, found by digest in memory and in a store on disk."""
