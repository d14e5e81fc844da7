"""The build of an artifact: the gate, the first look, what an earlier artifact gives, and the folder as it is written."""
