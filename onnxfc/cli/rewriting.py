"""The options of a rewrite that inspect takes, too."""

from __future__ import annotations

import click

REWRITING = (
    click.option(
        "--output",
        type=click.Choice(["map", "mean", "max"]),
        default="map",
        show_default=True,
        help="What the outputs are: a map with one cell per window, (N, K, gH, gW), or its mean or max over all cells, "
        "in the original's own shape.",
    ),
    click.option(
        "--global-pool",
        type=click.Choice(["window", "keep", "drop"]),
        default="window",
        show_default=True,
        help="A head behind a global pool: pool every native window, keep one vector at any size, or drop the pool "
        "(a class activation map; affine heads only).",
    ),
    click.option(
        "--output-at",
        multiple=True,
        metavar="NAME",
        help="End the model at this inner tensor, ahead of what makes labels of its scores, say; may be repeated.",
    ),
    click.option(
        "--free",
        multiple=True,
        type=click.Choice(["depth", "height", "width", "length"]),
        help="Free this axis of the image alone, while the others stay as they are; may be repeated.",
    ),
    click.option(
        "--grids",
        type=click.Choice(["step", "map", "image"]),
        help="How constant coordinates go on that do not show it: with the steps that they have, spread over the map, "
        "or as parts of the image.",
    ),
    click.option(
        "--grow",
        type=click.Choice(["pixels", "scale"]),
        help="How images of several native sizes grow together where the network does not show it: by as many pixels, "
        "or by as many times, as views of one scene.",
    ),
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="NAME",
        help="The image input, where several look like one; or an inner tensor (N, C, H, W), which becomes the input.",
    ),
)
