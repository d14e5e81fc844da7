"""Files of any kind: their names, texts that are safe to show, locks, JSON, and outputs written whole."""
