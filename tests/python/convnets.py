"""Convolutional networks of the literature in plain PyTorch, with widths that tests can shrink. Weights are random."""

from __future__ import annotations

import torch
from torch import nn


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Sequential:
    """Convolution, batch norm and an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    if act is not None:
        layers.append(act)
    return nn.Sequential(*layers)


# ---- ResNet (He et al., 2015) ----------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, c_in: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        c_out = width * (4 if bottleneck else 1)
        if bottleneck:
            self.body = nn.Sequential(
                conv_bn(c_in, width, 1, act=nn.ReLU()), conv_bn(width, width, 3, stride, act=nn.ReLU()), conv_bn(width, c_out, 1)
            )
        else:
            self.body = nn.Sequential(conv_bn(c_in, width, 3, stride, act=nn.ReLU()), conv_bn(width, c_out, 3))
        self.skip = conv_bn(c_in, c_out, 1, stride) if stride != 1 or c_in != c_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self, depths: tuple[int, ...], bottleneck: bool, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, width, 7, 2, act=nn.ReLU(inplace=True)), nn.MaxPool2d(3, 2, 1))
        stages: list[nn.Module] = []
        channels = width
        for i, depth in enumerate(depths):
            for j in range(depth):
                stages.append(Residual(channels, width << i, 2 if i and not j else 1, bottleneck))
                channels = (width << i) * (4 if bottleneck else 1)
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages(self.stem(x))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


# ---- MobileNetV2 (Sandler et al., 2018), EfficientNet (Tan and Le, 2019) ---------------------------------------------


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = nn.functional.silu(self.down(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.up(scale))


class InvertedResidual(nn.Module):
    def __init__(self, c_in: int, c_out: int, expand: int, kernel: int, stride: int, act: type[nn.Module], excite: bool) -> None:
        super().__init__()
        hidden = c_in * expand
        layers: list[nn.Module] = [conv_bn(c_in, hidden, 1, act=act())] if expand != 1 else []
        layers.append(conv_bn(hidden, hidden, kernel, stride, hidden, act=act()))
        if excite:
            layers.append(SqueezeExcite(hidden, max(1, c_in // 4)))
        layers.append(conv_bn(hidden, c_out, 1))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """Rows: expansion, channels, repeats, stride, kernel."""

    def __init__(
        self,
        rows: list[tuple[int, int, int, int, int]],
        stem: int,
        last: int,
        act: type[nn.Module],
        excite: bool,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, stem, 3, 2, act=act())]
        channels = stem
        for expand, c_out, repeats, stride, kernel in rows:
            for j in range(repeats):
                layers.append(InvertedResidual(channels, c_out, expand, kernel, 1 if j else stride, act, excite))
                channels = c_out
        layers.append(conv_bn(channels, last, 1, act=act()))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


def mobilenet_v2(scale: int = 1) -> MobileNet:
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    return MobileNet([(e, c // scale, n, s, 3) for e, c, n, s in rows], 32 // scale, 1280 // scale, nn.ReLU6, False)


def efficientnet_b0(scale: int = 1) -> MobileNet:
    rows = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]
    return MobileNet([(e, c // scale, n, s, k) for e, c, n, s, k in rows], 32 // scale, 1280 // scale, nn.SiLU, True)


# ---- VGG (Simonyan and Zisserman, 2014) ------------------------------------------------------------------------------


def vgg16(scale: int = 1, pool: int = 7, classes: int = 1000) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for repeats, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, width // scale, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width // scale
        layers.append(nn.MaxPool2d(2, 2))
    hidden = 4096 // scale
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(pool),
        nn.Flatten(),
        nn.Linear(channels * pool * pool, hidden),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(hidden, classes),
    )


# ---- DenseNet (Huang et al., 2016) -----------------------------------------------------------------------------------


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


def densenet(depths: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32, classes: int = 1000) -> nn.Sequential:
    channels = 2 * growth
    layers: list[nn.Module] = [conv_bn(3, channels, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    for i, depth in enumerate(depths):
        for _ in range(depth):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        if i + 1 < len(depths):
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
            channels //= 2
    return nn.Sequential(
        *layers, nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


# ---- SqueezeNet (Iandola et al., 2016), version 1.1 ------------------------------------------------------------------


class Fire(nn.Module):
    def __init__(self, c_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, squeeze, 1)
        self.expand1, self.expand3 = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1(x)), torch.relu(self.expand3(x))], 1)


def squeezenet(scale: int = 1, classes: int = 1000) -> nn.Sequential:
    def fire(c_in: int, squeeze: int, expand: int) -> Fire:
        return Fire(c_in // scale, squeeze // scale, expand // scale)

    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64 // scale, 3, 2),
        nn.ReLU(),
        pool(),
        fire(64, 16, 64),
        fire(128, 16, 64),
        pool(),
        fire(128, 32, 128),
        fire(256, 32, 128),
        pool(),
        fire(256, 48, 192),
        fire(384, 48, 192),
        fire(384, 64, 256),
        fire(512, 64, 256),
        nn.Dropout(),
        nn.Conv2d(512 // scale, classes, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


# ---- U-Net (Ronneberger et al., 2015) --------------------------------------------------------------------------------


class UNet(nn.Module):
    """Upsamples by transposed convolutions, or bilinearly."""

    def __init__(self, width: int = 32, depth: int = 4, classes: int = 2, bilinear: bool = False) -> None:
        super().__init__()

        def double(c_in: int, c_out: int) -> nn.Sequential:
            return nn.Sequential(conv_bn(c_in, c_out, 3, act=nn.ReLU()), conv_bn(c_out, c_out, 3, act=nn.ReLU()))

        widths = [width << i for i in range(depth + 1)]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([3, *widths], widths))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.Conv2d(2 * w, w, 1))
            if bilinear
            else nn.ConvTranspose2d(2 * w, w, 2, 2)
            for w in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(double(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1])):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


# ---- Temporal convolutional network (Bai et al., 2018): causal, dilated ----------------------------------------------


class TemporalBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.conv1 = nn.Conv1d(c_in, c_out, 3, dilation=dilation)
        self.conv2 = nn.Conv1d(c_out, c_out, 3, dilation=dilation)
        self.skip = nn.Conv1d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv1(nn.functional.pad(x, (self.pad, 0))))
        y = torch.relu(self.conv2(nn.functional.pad(y, (self.pad, 0))))
        return torch.relu(y + self.skip(x))


def tcn(channels: int = 64, levels: int = 6) -> nn.Sequential:
    return nn.Sequential(
        *(TemporalBlock(channels if i else 16, channels, 1 << i) for i in range(levels)), nn.Conv1d(channels, 10, 1)
    )


# ---- Weights ---------------------------------------------------------------------------------------------------------


def randomize(module: nn.Module) -> nn.Module:
    """Weights that keep activations near 1 through any depth, and batch-norm statistics as training leaves them."""
    for child in module.modules():
        if isinstance(child, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(child.weight, nonlinearity="relu")
            if child.bias is not None:
                nn.init.uniform_(child.bias, -0.1, 0.1)
        elif isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(child.weight, 0.5, 1.0)
            nn.init.uniform_(child.bias, -0.1, 0.1)
            child.running_mean.uniform_(-0.1, 0.1)
            child.running_var.uniform_(0.7, 1.3)
    return module
