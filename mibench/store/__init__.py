"""What the program keeps on disk: artefacts with manifests, resumable state and their index."""
