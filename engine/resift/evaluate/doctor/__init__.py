"""The doctor: finds what stands in the way of good rankings."""
