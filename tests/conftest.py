"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("tidemill", deadline=None, derandomize=True)  # no timing asserts; the same examples each time
settings.load_profile("tidemill")
