"""Files of any kind: their names, text that is safe to show, locks, JSON, and outputs that appear only once they are complete."""
