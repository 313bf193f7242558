"""The one place that says which version this is: the package and its metadata read it here."""

__version__ = "0.1.0"
