"""How much a classifier that somebody trained elsewhere gives away: ``mibench model audit``."""
