"""torchvision's nms and roi_align. Where torchvision is not installed, its operators are declared here, in Python."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import kiln  # noqa: E402

try:
    import torchvision  # noqa: F401
except Exception:  # not there, or made for another PyTorch
    library = torch.library.Library("torchvision", "FRAGMENT")
    if not hasattr(torch.ops.torchvision, "nms"):
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    if not hasattr(torch.ops.torchvision, "roi_align"):
        library.define(
            "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
            "int sampling_ratio, bool aligned) -> Tensor"
        )

    @torch.library.register_fake("torchvision::nms")
    def _(dets, scores, iou_threshold):
        return dets.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.long)

    @torch.library.register_fake("torchvision::roi_align")
    def _(x, rois, scale, height, width, sampling, aligned):
        return x.new_empty(rois.shape[0], x.shape[1], height, width)


def overlap(a: list[float], b: list[float]) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def nms(boxes: torch.Tensor, scores: torch.Tensor, limit: float) -> list[int]:
    kept: list[int] = []
    rows = boxes.tolist()
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(overlap(rows[k], rows[i]) <= limit for k in kept):
            kept.append(i)
    return kept


def bilinear(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    height, width = image.shape[-2:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(image.shape[0], dtype=image.dtype)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    wy, wx = y - y0, x - x0
    top = image[:, y0, x0] * (1 - wx) + image[:, y0, x1] * wx
    bottom = image[:, y1, x0] * (1 - wx) + image[:, y1, x1] * wx
    return top * (1 - wy) + bottom * wy


def roi_align(x: torch.Tensor, rois: torch.Tensor, scale: float, height: int, width: int, sampling: int, aligned: bool):
    y = torch.zeros(len(rois), x.shape[1], height, width)
    for k, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        ny = sampling if sampling > 0 else math.ceil(h / height)
        nx = sampling if sampling > 0 else math.ceil(w / width)
        for i in range(height):
            for j in range(width):
                for iy in range(ny):
                    for ix in range(nx):
                        at_y = y1 + (i + (iy + 0.5) / ny) * h / height
                        at_x = x1 + (j + (ix + 0.5) / nx) * w / width
                        y[k, :, i, j] += bilinear(x[int(image)], at_y, at_x) / max(nx * ny, 1)
    return y


def random_boxes(count: int, size: float) -> torch.Tensor:
    corners = torch.rand(count, 2) * size
    return torch.cat([corners, corners + torch.rand(count, 2) * size / 2], dim=1)


class Suppress(torch.nn.Module):
    def forward(self, boxes, scores):
        kept = torch.ops.torchvision.nms(boxes, scores, 0.3)
        return kept, boxes[kept]


class Align(torch.nn.Module):
    def __init__(self, *options) -> None:
        super().__init__()
        self.options = options

    def forward(self, x, rois):
        return torch.ops.torchvision.roi_align(x, rois, *self.options)


@pytest.mark.parametrize("count", [1, 7, 200])
def test_nms(count: int) -> None:
    torch.manual_seed(count)
    boxes, scores = random_boxes(count, 20), torch.rand(count)
    fast = kiln.compile(torch.export.export(Suppress().eval(), (boxes, scores), strict=False))
    for _ in range(2):
        kept, chosen = fast(boxes, scores)
        assert kept.dtype is torch.int64
        assert kept.tolist() == nms(boxes, scores, 0.3)
        assert torch.equal(chosen, boxes[kept])
        boxes, scores = random_boxes(count, 20), torch.rand(count)


def test_nms_takes_equal_scores_in_order() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [5, 5, 6, 6], [5, 5, 6, 6.1]])
    fast = kiln.compile(torch.export.export(Suppress().eval(), (boxes, torch.ones(4)), strict=False))
    assert fast(boxes, torch.ones(4))[0].tolist() == [0, 2]


@pytest.mark.parametrize("options", [(0.5, 2, 3, 2, False), (1.0, 3, 3, 0, True), (0.25, 1, 1, 0, False), (1.0, 2, 2, 3, True)])
def test_roi_align(options) -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 3, 9, 11)
    rois = torch.cat([torch.tensor([[0.0], [1], [1], [0]]), random_boxes(4, 12) - 1], dim=1)
    fast = kiln.compile(torch.export.export(Align(*options).eval(), (x, rois), strict=False))
    torch.testing.assert_close(fast(x, rois), roi_align(x, rois, *options), rtol=1e-5, atol=1e-5)


def test_regions_of_images_that_are_not_there() -> None:
    x, rois = torch.randn(2, 3, 9, 11), torch.tensor([[2.0, 0, 0, 4, 4]])
    fast = kiln.compile(torch.export.export(Align(1.0, 2, 2, 2, True).eval(), (x, rois), strict=False))
    with pytest.raises(kiln.KilnError, match="region 0 is of image 2, there are 2"):
        fast(x, rois)
    rois = torch.tensor([[0.0, 0, 0, 1e30, float("nan")]])
    assert fast(x, rois).shape == (1, 3, 2, 2)  # ends
