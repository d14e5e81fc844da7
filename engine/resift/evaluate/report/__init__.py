"""The report of an evaluation: one HTML file with its texts and figures."""
