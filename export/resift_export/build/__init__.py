"""The build of an artifact: the gate, the first look, graphs reused from an earlier artifact, and the writing of its folder."""
