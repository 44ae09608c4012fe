"""Rendered videos of rotating models."""

import numpy as np
import pytest
import torch

from mezzotint.data.video.embedded import RotatingObjects, render

av = pytest.importorskip("av")


def test_a_point_in_front_hides_one_behind_and_turns_with_the_model() -> None:
    # Two points on a line of sight at yaw 0: the camera looks along +y, from a little above.
    cloud = torch.tensor([[0.0, 0.0], [-0.9, 0.9], [0.0, 0.0]]).unsqueeze(0)
    front, side, back = render(cloud, torch.tensor([[0.0, torch.pi / 2, torch.pi]]), 32)[0]
    assert (front > 0).sum() == 8 and int(front.max()) > 220 and int(front[front > 0].min()) < 100
    assert (
        torch.equal((front > 0).any(dim=1), (back > 0).any(dim=1))
        and (side > 0).any(dim=0).nonzero().diff(dim=0).max() > 20
    )
    behind = torch.tensor(
        [[0.0, 0.0], [-0.5, 0.5], [0.0, -2.0 * 0.5 * np.tan(np.radians(25.0))]], dtype=torch.float32
    ).unsqueeze(0)
    assert len(set(render(behind, torch.zeros(1, 1), 32).flatten().tolist())) == 2


def test_rotating_objects() -> None:
    source = RotatingObjects(frames=4, size=16)
    assert source.images.shape == (820, 1, 4, 16, 16) and torch.equal(
        source.images, RotatingObjects(frames=4, size=16).images
    )
    share = (source.images > 0).float().mean(dim=(1, 2, 3, 4))
    assert float(share.min()) > 0.02 and float(share.max()) < 0.9
    assert [task.name for task in source.evaluation()[1]] == [
        "object/holdout",
        "room/holdout",
        "object/1-percent",
    ]
    with pytest.raises(ValueError, match="got frames=1"):
        RotatingObjects(frames=1)
