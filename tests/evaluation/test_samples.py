"""Drawing many samples, and going on after an interruption."""

from collections import Counter

import pytest
import torch

from genrefine.errors import GenrefineError
from genrefine.evaluation.samples import draw_samples, labels_like, weights_fingerprint
from tiny_models import CLASS_NAMES, tiny_pipeline, tiny_refiner


class LostPatienceError(Exception):
    pass


class StopsAfter:
    """A pipeline whose owner loses patience."""

    def __init__(self, pipe, calls: int) -> None:
        self.pipe, self.calls = pipe, calls
        self.refiner, self.visual_tokenizer, self.sampler = pipe.refiner, pipe.visual_tokenizer, pipe.sampler
        self.class_names = pipe.class_names

    def __call__(self, class_labels, **arguments):
        if self.calls == 0:
            raise LostPatienceError
        self.calls -= 1
        return self.pipe(class_labels, **arguments)


def test_labels_follow_the_proportions_of_the_reference():
    reference = [0] * 50 + [1] * 30 + [3] * 20
    assert Counter(labels_like(reference, 4, 10)) == {0: 5, 1: 3, 3: 2}
    assert labels_like(reference, 4, 10) == labels_like(reference[::-1], 4, 10)


@pytest.mark.parametrize("count", [1, 7, 100, 1001])
def test_every_class_gets_its_share_rounded_up_or_down(count):
    reference = torch.randint(0, 9, (123,), generator=torch.Generator().manual_seed(0)).tolist()
    found = Counter(labels_like(reference, 9, count))
    assert found.total() == count
    for label, number in Counter(reference).items():
        assert abs(found[label] - number * count / 123) < 1


def test_labels_are_mixed_so_that_the_first_samples_are_of_many_classes():
    assert len(set(labels_like(list(range(6)) * 10, 6, 60)[:12])) >= 4


def test_labels_out_of_range_are_refused():
    with pytest.raises(GenrefineError, match=r"0\.\.2"):
        labels_like([0, 3], 3, 5)
    with pytest.raises(GenrefineError, match="none"):
        labels_like([], 3, 5)


def test_samples_are_those_of_the_pipeline_and_do_not_depend_on_the_batch_size():
    pipe = tiny_pipeline()
    labels = [0, 5, 2, 3, 1]
    found = draw_samples(pipe, labels, batch_size=2, progress=False)
    at_once = draw_samples(pipe, labels, batch_size=5, progress=False)
    alone = pipe(CLASS_NAMES[3], seed=3, output_type="pt")
    assert torch.equal(found.frames, at_once.frames)
    assert torch.equal(found.frames[3], (alone.images[0] * 255).round().to(torch.uint8))
    assert found.labels.tolist() == labels
    assert found.num_steps.tolist() == [4] * 5
    assert found.num_evaluations.tolist() == at_once.num_evaluations.tolist() == alone.num_evaluations * 5


def test_sampling_arguments_reach_the_pipeline():
    found = draw_samples(tiny_pipeline(), [0, 1], num_inference_steps=3, guidance_scale=1.0, progress=False)
    assert found.num_steps.tolist() == found.num_evaluations.tolist() == [3, 3]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    labels = [0, 1, 2, 3, 4]
    with pytest.raises(LostPatienceError):
        draw_samples(StopsAfter(tiny_pipeline(), 2), labels, 2, tmp_path / "run", progress=False)
    rest = StopsAfter(tiny_pipeline(), 1)
    found = draw_samples(rest, labels, 2, tmp_path / "run", progress=False)
    assert rest.calls == 0
    assert torch.equal(found.frames, draw_samples(tiny_pipeline(), labels, 2, progress=False).frames)


@pytest.mark.parametrize("changed", ["labels", "sampling", "weights", "sampler"])
def test_a_folder_of_another_run_is_refused(tmp_path, changed):
    draw_samples(tiny_pipeline(), [0, 1], 2, tmp_path, progress=False)
    pipe = tiny_pipeline(temperature=0.5) if changed == "sampler" else tiny_pipeline()
    if changed == "weights":
        pipe.register_modules(refiner=tiny_refiner(seed=1))
    sampling = {"num_inference_steps": 3} if changed == "sampling" else {}
    labels = [1, 1] if changed == "labels" else [0, 1]
    with pytest.raises(GenrefineError, match=f"another run .different {changed}.;"):
        draw_samples(pipe, labels, 2, tmp_path, progress=False, **sampling)


def test_no_labels_are_refused():
    with pytest.raises(GenrefineError, match="at least one label"):
        draw_samples(tiny_pipeline(), [], progress=False)


def test_the_fingerprint_changes_with_any_weight():
    refiner = tiny_refiner()
    before = weights_fingerprint(refiner)
    assert before == weights_fingerprint(tiny_refiner())
    with torch.no_grad():
        next(refiner.parameters()).flatten()[0] += 1e-3
    assert weights_fingerprint(refiner) != before
