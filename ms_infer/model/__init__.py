"""The student in plain PyTorch. May import: numerics, text, config."""

import ms_infer.needs_torch  # noqa: F401
