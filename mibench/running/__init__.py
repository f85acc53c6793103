"""From a plan to results: what is missing is computed, here or on a cluster, and recorded."""
