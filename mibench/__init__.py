"""mibench: model inversion attacks and defenses, compared under fixed protocols."""

__version__ = "0.1.0"
