"""The report of an evaluation: one HTML file, its words and its figures."""
