"""Submissions: a folder of results that somebody else computed. Packing, verifying, accepting and reproducing them.

What verifies a submission imports no plugin, unpickles nothing and runs nothing of it.
"""
