"""Imported before PyTorch: where that is not installed, one error says what to do. Bundles stream without it."""

from importlib.util import find_spec

from ms_infer.errors import MissingExtraError

if find_spec("torch") is None:
    raise MissingExtraError(
        "checkpoints, exports and training need PyTorch, which is not installed: pip install 'ms-infer[torch]'; "
        "a bundle that ms-export made elsewhere streams without it"
    )
