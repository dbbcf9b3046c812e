"""PanoSprite scenes, their pictures, tracks and captions. May import: ms_infer."""
