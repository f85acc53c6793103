"""The stages of a run. Each module turns its parents' artefacts into one artefact: ``run(job) -> result``."""
