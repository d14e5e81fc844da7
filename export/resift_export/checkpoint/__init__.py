"""The checkpoint: trained weights, tokenizer and configuration, loaded without running its code. It is the reference of parity."""
