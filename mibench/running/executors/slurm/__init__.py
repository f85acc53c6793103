"""Compute stages as jobs of a SLURM cluster. ``MIBENCH_HOME`` lies on a disk that all nodes share.

No state lives only here: a job's number stands in ``jobs/<key>/job.json`` and what became of it in the stage's attempts
and its artefact. So jobs go on when their coordinator dies, and the next one adopts those that still run.
"""
