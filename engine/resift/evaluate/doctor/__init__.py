"""The doctor: what stands in the way of good rankings."""
