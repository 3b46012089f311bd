"""Judging clips against real clips."""

import json

import pytest
import torch
from captioned import Captioned
from test_prompts import Means

from genrefine.errors import GenrefineError
from genrefine.evaluation.clips import evaluate_clips, first_frame_kept, motion, streamed_difference
from genrefine.evaluation.pixels import psnr
from genrefine.media.pixels import from_uint8, to_uint8
from tiny_models import tiny_clip_tokenizer, tiny_text_pipeline


def test_motion_is_none_for_a_still_clip_and_one_for_a_blinking_one():
    still = torch.full((1, 3, 5, 4, 4), 0.3)
    blinking = torch.tensor([-1.0, 1, -1, 1, -1])[None, None, :, None, None].expand(1, 3, 5, 4, 4)
    assert motion(torch.cat([still, blinking])).tolist() == [0, 1]
    with pytest.raises(GenrefineError, match="two frames"):
        motion(still[:, :, :1])


def test_streamed_decoding_equals_the_whole_clip_and_a_broken_stream_would_show():
    tokenizer, pixels = tiny_clip_tokenizer(), Captioned(frames=5).pixels[:3]
    codes = tokenizer.encode(pixels).split(1)
    assert streamed_difference(tokenizer, codes) < 1e-5

    class Forgetful:
        """Decode every chunk as if it were a clip of its own."""

        decode = staticmethod(tokenizer.decode)

        def decode_chunks(self, chunks):
            for number, chunk in enumerate(chunks):
                yield tokenizer.decode(chunk).expand(-1, -1, 1 if number == 0 else 2, -1, -1)

    assert streamed_difference(Forgetful(), codes) > 1e-3


def test_a_kept_first_frame_is_what_the_tokenizer_makes_of_it():
    tokenizer, given = tiny_clip_tokenizer(), Captioned().pixels[:3]
    own = from_uint8(to_uint8(torch.cat([tokenizer.decode(tokenizer.encode(one)) for one in given.split(1)])))
    kept = first_frame_kept(tokenizer, own.repeat(1, 1, 5, 1, 1), given)
    assert kept.largest_difference == 0
    assert kept.psnr == kept.psnr_of_tokenizer == pytest.approx(float(psnr(own, given).mean()))
    other = own.clone()
    other[0, 0, 0, 0, 0] -= 20 / 127.5 if own[0, 0, 0, 0, 0] > 0 else -20 / 127.5
    lost = first_frame_kept(tokenizer, other, given)
    assert lost.largest_difference == 20
    assert lost.psnr != lost.psnr_of_tokenizer


def test_clips_are_compared_frame_by_frame_and_given_first_frames_come_back():
    source, pipe = Captioned(frames=5), tiny_text_pipeline()
    found = evaluate_clips(pipe, source, 8, True, Means(), progress=False, num_inference_steps=2)
    assert (found.num_clips, found.num_real, found.num_frames) == (8, 12, 5)
    assert found.first_frame.largest_difference <= 1  # a rounding
    assert found.kernel.subset_size == 8 * 5 // 2
    assert len(found.kernel_of_frames) == 5
    assert found.kernel.mean > found.kernel_floor.mean
    assert found.motion_of_real == pytest.approx(float(motion(source.pixels).mean()))
    tokenizer = pipe.visual_tokenizer
    own = torch.cat([tokenizer.decode(tokenizer.encode(one)) for one in source.pixels.split(1)])
    assert found.tokenizer.motion == pytest.approx(float(motion(own.clamp(-1, 1)).mean()), abs=2 / 255)
    assert found.tokenizer.psnr == pytest.approx(float(psnr(own.clamp(-1, 1), source.pixels).mean()), abs=0.1)
    assert found.tokenizer.kernel.mean > found.kernel_floor.mean
    assert found.streamed_difference < 1e-5
    assert found.mean_steps == 2
    assert json.loads(found.to_json())["sampling"] == {"num_inference_steps": 2}


def test_captions_alone_give_no_first_frame_and_the_same_numbers_again():
    source, pipe = Captioned(frames=3), tiny_text_pipeline()
    runs = [evaluate_clips(pipe, source, 8, False, Means(), size, progress=False) for size in (3, 8)]
    assert runs[0] == runs[1]
    assert runs[0].first_frame is None


def test_too_few_clips_and_clips_without_captions_are_refused():
    source = Captioned(frames=3)
    with pytest.raises(GenrefineError, match="eight captions"):
        evaluate_clips(tiny_text_pipeline(), source, 7, extractor=Means(), progress=False)
    source.captions = []
    with pytest.raises(GenrefineError, match="caption column"):
        evaluate_clips(tiny_text_pipeline(), source, extractor=Means(), progress=False)
