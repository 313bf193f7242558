"""Where attempts run: processes on this machine, or a deployed app on Modal."""
