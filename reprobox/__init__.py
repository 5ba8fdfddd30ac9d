"""Reprobox: a training run that somebody else can repeat, bit for bit."""

__version__ = "0.1.0"
