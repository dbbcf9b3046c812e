"""How good a student is, beside baselines. May import: ms_train.stages, ms_train.data, ms_infer."""
