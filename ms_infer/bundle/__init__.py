"""The folder that ms-export makes: its manifest, its stages, its digests. May import: model, config, files."""
