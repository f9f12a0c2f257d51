"""What every test runs under: one Hypothesis profile, that does not measure time on a shared machine."""

from hypothesis import settings

settings.register_profile("homing", deadline=None, print_blob=True)
settings.load_profile("homing")
