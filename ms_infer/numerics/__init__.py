"""Numbers that every engine must agree on: timesteps, noise, angles. May import: config."""
