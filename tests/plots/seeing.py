"""What a reader sees of a figure."""

import re

import torch


def cells_of(trace):
    return torch.tensor([[torch.nan if v is None else v for v in row] for row in trace.z]).double()


def frames(figure):
    """(row, column) of the outlined cells."""
    rects = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    return [(round((s.y0 + s.y1) / 2), round((s.x0 + s.x1) / 2)) for s in rects]


def written(figure, row, column):
    """What is written in a cell, without its colour."""
    return re.sub("<.*?>", "", figure.data[0].text[row][column])


def contrast(one, other):
    """WCAG 2's contrast of two colours, as CSS writes them."""
    levels = []
    for colour in (one, other):
        channels = [float(number) / 255 for number in re.findall(r"[\d.]+", colour)[:3]]
        if colour.startswith("#"):
            channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)
