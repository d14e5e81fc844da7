"""The models that come with resift: one artifact folder each, found by `resift.artifact.folder.embedded`."""
