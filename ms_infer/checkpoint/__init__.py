"""Every public checkpoint format to one `Student`, and back to a file. May import: model, config, files."""

import ms_infer.needs_torch  # noqa: F401
from ms_infer.checkpoint.student import Student, load_student, random_student, save_student

__all__ = ["Student", "load_student", "random_student", "save_student"]
