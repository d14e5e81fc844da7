"""The artifact: the folder on disk, its manifest, graphs, steps and certificate, opened and checked before anything runs."""
