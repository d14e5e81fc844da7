"""Labelled data: candidate pools, BEIR folders and TREC runs, read and checked."""
