"""What a type checker must find: every line that ends in `# wrong` is one."""

from ms_infer import Model, Stream, Tracks

stream = Stream("demo", motor="torch")  # wrong
stream = Stream("demo", threads="all")  # wrong
stream.start(3.5)  # wrong
stream.frames_on = "gpu"  # wrong
stream.step().frames = None  # wrong
stream.set_tracks([(0.1, 0.2)])  # wrong
Model("demo").stream(1)  # wrong
stream.hand().press(1, "left", 0.5)  # wrong
stream.set_tracks(Tracks.grid(2, 2))
