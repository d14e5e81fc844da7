"""The checkpoint: trained weights, tokenizer and configuration, loaded without running its code; the reference of parity."""
