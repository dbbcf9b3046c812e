"""The recipe that makes checkpoints."""

import ms_infer.needs_torch  # noqa: F401
