"""The toolchain: a cross-encoder's checkpoint becomes a verified artifact. `convert.convert` is the whole line."""
