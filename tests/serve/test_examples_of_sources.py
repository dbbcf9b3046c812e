"""What is offered to begin with does not depend on what is served."""

from __future__ import annotations

from dataclasses import replace

from ms_infer.demo import default_example, demo_examples
from tests.serve.live import Page, running
from tests.serve.moving_picture import MovingPicture


def bundle_of_another_name() -> MovingPicture:
    """A model that is not called demo, as one of a bundle."""
    stream = MovingPicture(size=128)
    stream.config = replace(stream.config, model=replace(stream.config.model, name="my-bundle"))
    return stream


def test_every_source_offers_the_pictures_of_the_demo() -> None:
    names = {example.image.stem for example in demo_examples()}
    with running(fps=48.0) as demo, running(bundle_of_another_name, fps=48.0, source="my/bundle") as bundle:
        offered = []
        for server in (demo, bundle):
            with Page(server) as page, server.http() as http:
                offered.append(page.hello["examples"])
                assert all(http.get(f"/examples/{name}").status_code == 200 for name in offered[-1])
    assert offered[0] == offered[1]
    assert names < set(offered[0])
    assert offered[0][0] == default_example().image.stem  # what the command line begins with too
    assert {"coffee", "chelsea", "rocket"} < set(offered[0])  # photographs are among them
