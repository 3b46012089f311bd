"""Film the refinement of one seed twice, with fixed and with entropy-guided steps, side by side.

Every frame shows the picture the network has in mind and, per position, which share of the codes the step kept, filled,
erased and left blank. The same numbers are printed as a table.

    python examples/refinement_film.py --class-label flags/noto --seed 7 -o film.gif
"""

import argparse

from genrefine import ClassPipeline, zoo
from genrefine.media.film import SHARE_COLORS
from genrefine.media.writing import require_animation_path, save_animation
from genrefine.pipelines import FilmRecorder
from genrefine.pipelines.film import draw_film


def main(arguments: list[str] | None = None) -> None:
    """Draw the film."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", help="pipeline folder; default is the shipped model")
    parser.add_argument("--class-label", default="flags/noto", help="what to draw")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("-o", "--output", default="film.gif", help="a .gif or .webp")
    chosen = parser.parse_args(arguments)
    require_animation_path(chosen.output)

    pipe = ClassPipeline.from_pretrained(chosen.model) if chosen.model else zoo.load("emoji-class")
    panels = []
    for way, sampling in {"fixed": {}, "adaptive": {"adaptive": True}}.items():
        recorder = FilmRecorder([f"{way}   seed {chosen.seed}"])  # one caption per picture of the call
        output = pipe(chosen.class_label, seed=chosen.seed, **sampling, **recorder.arguments)
        panels += recorder.panels
        print(f"{way}: {output.num_steps[0]} steps, {output.num_evaluations[0]} network evaluations")
        print("step  signal  entropy" + "".join(f"{name:>9}" for name in SHARE_COLORS))
        for panel in recorder.panels[0]:
            shares = "".join(f"{share:>9.1%}" for share in panel.shares.mean(dim=(1, 2)).tolist())
            print(f"{panel.step:>4}  {panel.signal:>6.2f}  {panel.entropy:>7.3f}{shares}")
    save_animation(draw_film(panels), chosen.output)
    print(f"film: {chosen.output}")


if __name__ == "__main__":
    main()
