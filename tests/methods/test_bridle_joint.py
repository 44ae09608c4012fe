"""Joint BRIDLE: turns of the tokenizer, and its gradient."""

import torch

from mezzotint.methods.bridle_joint import BRIDLEJoint
from tests.methods.tiny_bridle import DECODER, book, patterned, views, vit


def test_joint_trains_the_tokenizer_in_every_nth_step_alone() -> None:
    method = BRIDLEJoint(
        vit(), codebook=book(8, 2), decoder=DECODER, estimator_depth=1, every=3, weight=0.5
    ).train()
    moved = []
    for step in range(7):
        books = method.codebook.state_dict()["books.vectors"].clone()
        method.zero_grad()
        method(views(patterned(step=step), step)).loss.backward()
        gradient = sum(
            float(p.grad.abs().sum()) for p in method.tokenizer.parameters() if p.grad is not None
        )
        changed = not torch.equal(books, method.codebook.state_dict()["books.vectors"])
        assert changed == (gradient > 0)
        moved.append(changed)
        method.after_step(0.5)
    assert moved == [True, False, False, True, False, False, True]


def test_no_gradient_of_the_tokenizer_reaches_the_encoder() -> None:
    turn = BRIDLEJoint(vit(), codebook=book(8, 2), decoder=DECODER, estimator_depth=1, weight=9.0)
    plain = BRIDLEJoint(vit(), codebook=book(8, 2), decoder=DECODER, estimator_depth=1, weight=1e-9)
    plain.load_state_dict(turn.state_dict())
    for method in (turn, plain):
        method.train()(views(patterned())).loss.backward()
    for one, two in zip(turn.encoder.parameters(), plain.encoder.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
