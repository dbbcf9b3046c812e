"""The stages of the recipe, from the autoencoder to the refiner. May import: ms_train.data, ms_infer."""
