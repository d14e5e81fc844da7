"""The toolchain: a cross-encoder's checkpoint becomes a verified artifact. The entry point is `convert.convert`."""
