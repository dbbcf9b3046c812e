"""The demo's first frames: what lies beside its weights is whole, of one size, and says where it comes from."""

from __future__ import annotations

from PIL import Image

from ms_infer.demo import default_example, demo_examples


def test_pictures_are_square_and_named_with_their_licence() -> None:
    examples = demo_examples()
    credits = (examples[0].image.parent / "CREDITS.md").read_text(encoding="utf-8")
    for example in examples:
        with Image.open(example.image) as picture:
            assert picture.size == (256, 256)
        assert f"`{example.image.name}`" in credits
    assert len({example.image.stem for example in examples}) == len(examples) == 6


def test_drags_begin_and_end_in_the_picture() -> None:
    for example in demo_examples():
        assert example.drags
        assert 0 < example.radius < 0.5
        assert all(0 < place < 1 for drag in example.drags for point in drag for place in point)
    assert len(default_example().drags) == 1
