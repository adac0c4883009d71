#!/usr/bin/env python3
"""Makes the seed files of the fuzz targets: corpus/<target>/*.

Needs torch for the files that torch writes; `--kiln PATH` names the CLI and adds the seeds of engines and graph texts.
The committed seeds are this script's output.
"""

import argparse
import io
import json
import pathlib
import pickle
import re
import struct
import subprocess
import tempfile
import warnings
import zipfile

HERE = pathlib.Path(__file__).resolve().parent / "corpus"


def put(target: str, name: str, data: bytes) -> None:
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


class Unseekable(io.RawIOBase):
    """Makes zipfile write data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, chunk) -> int:
        self.data += chunk
        return len(chunk)


def zips() -> None:
    def make(method: int, *, zip64: bool = False, stream: bool = False, comment: bytes = b"") -> bytes:
        out = Unseekable() if stream else io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in (("m/a.txt", b"hello " * 20), ("m/b/empty", b""), ("m/data.bin", bytes(range(64)))):
                with archive.open(zipfile.ZipInfo(name), "w", force_zip64=zip64) as f:
                    f.write(data)
                archive.getinfo(name).compress_type = method
            archive.comment = comment
        return bytes(out.data) if stream else out.getvalue()

    put("zip", "stored.zip", make(zipfile.ZIP_STORED))
    put("zip", "deflated.zip", make(zipfile.ZIP_DEFLATED))
    put("zip", "zip64.zip", make(zipfile.ZIP_STORED, zip64=True))
    put("zip", "stream.zip", make(zipfile.ZIP_DEFLATED, stream=True))
    put("zip", "comment.zip", make(zipfile.ZIP_STORED, comment=b"a comment"))
    put("zip", "empty.zip", b"PK\x05\x06" + bytes(18))


def safetensors() -> None:
    def make(header: dict, data: bytes) -> bytes:
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + data

    two = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
        "none": {"dtype": "I64", "shape": [0, 4], "data_offsets": [28, 28]},
        "s": {"dtype": "F8_E4M3", "shape": [], "data_offsets": [28, 29]},
    }
    put("safetensors", "two.safetensors", make(two, bytes(range(29))))
    put("safetensors", "empty.safetensors", make({}, b""))


def jsons() -> None:
    put(
        "json",
        "kinds.json",
        json.dumps({"a": [1, -2.5e3, True, False, None, 't\u00e9\n"'], "b": {"c": {}}, "d": []}).encode(),
    )
    put("json", "number.json", b"-9223372036854775808")


def pickles() -> None:
    values = [
        1,
        -1,
        300,
        70000,
        2**40,
        -(2**40),
        2.5,
        None,
        True,
        "text",
        b"bytes",
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
    ]
    tree = {"values": values, "again": values, "nested": {"x": [[[]]]}}
    for protocol in (2, 4):
        put("pickle", f"plain{protocol}.pkl", pickle.dumps(tree, protocol=protocol))


def entry(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as z:
        return z.read(next(n for n in z.namelist() if n.endswith("/" + name)))


def saved(save, value) -> bytes:
    out = io.BytesIO()
    save(value, out)
    return out.getvalue()


def forget_folders(program) -> None:
    """Stack traces then name files without the folders of the machine that ran this."""
    for node in program.graph.nodes:
        if node.meta.get("stack_trace"):
            node.meta["stack_trace"] = re.sub(r'File "[^"]*/', 'File "', node.meta["stack_trace"])


def without_debug_files(archive: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            if not info.filename.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(info.filename), old.read(info), info.compress_type)
    return out.getvalue()


def relocate(record: bytes) -> bytes:
    """A pickle of source ranges whose texts name files without the folders of the machine that ran this."""

    def shorten(match: re.Match) -> bytes:
        length = struct.unpack("<I", match[1])[0]
        text, rest = match[2][:length], match[2][length:]
        if len(text) < length or not text.startswith(b"/"):
            return b"X" + match[1] + re.sub(pattern, shorten, match[2], flags=re.DOTALL)
        package = text.find(b"/torch/")
        name = text[package:] if package >= 0 else re.sub(rb"^/[^(]*/", b"", text)
        return b"X" + struct.pack("<I", len(name)) + name + re.sub(pattern, shorten, rest, flags=re.DOTALL)

    pattern = rb"X(....)(.*)"
    return re.sub(pattern, shorten, record, flags=re.DOTALL)


def relocated(archive: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            name = "m/" + info.filename.split("/", 1)[1]
            method = zipfile.ZIP_STORED  # mutations of compressed bytes would end at the checksum
            new.writestr(zipfile.ZipInfo(name), relocate(data) if name.endswith(".debug_pkl") else data, method)
    return out.getvalue()


def torchscript_files() -> None:
    import torch
    import torchscript_seeds as seeds

    torch.manual_seed(0)
    for name, module in seeds.modules():
        put("torchscript", f"{name}.pt", relocated(saved(torch.jit.save, module)))


def torch_files() -> None:
    import torch

    torch.manual_seed(0)

    class Conv(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 2, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(2)
            self.register_buffer("shift", torch.ones(2, 1, 1), persistent=False)

        def forward(self, x):
            y = torch.relu(self.norm(self.conv(x))) + self.shift
            return {"y": y, "pool": torch.nn.functional.adaptive_avg_pool2d(y, 1).flatten(1)}

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)
            self.tied = torch.nn.Linear(3, 3)
            self.tied.weight = self.linear.weight

        def forward(self, x):
            h = self.tied(torch.nn.functional.gelu(self.linear(x)))
            return h.softmax(-1).view(x.shape[0], 3, 1), x[:, :2]

    class Mix(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(5, 4)
            self.lstm = torch.nn.LSTM(4, 4, batch_first=True)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, ids, scale: float):
            self.calls.add_(1)
            h, _ = self.lstm(self.embedding(ids))
            a = torch.nn.functional.scaled_dot_product_attention(h, h, h, is_causal=True)
            a = torch.cat([a[:, 1:], a[:, :1] * scale], 1)
            a[:, 0] = 0
            return torch.where(a > 0, a, -a).cumsum(1), a.argmax(-1), a.mean((0, 1))

    class Waves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("turns", torch.polar(torch.ones(2, 5), torch.arange(10.0).view(2, 5)))

        def forward(self, x):
            z = torch.fft.rfft(x, n=8) * self.turns
            z[:, 0] += z[:, 1].conj()
            frames = torch.stft(x.flatten(), 8, 3, window=torch.ones(8), return_complex=True)
            back = torch.istft(frames, 8, 3, window=torch.ones(8))
            return torch.fft.ifft2(torch.stack([z, z / 2])).abs().sum(-1), torch.view_as_real(frames[:2]), back, z.angle()

    tiny, conv = Tiny().eval(), Conv().eval()
    waves = torch.export.export(Waves().eval(), (torch.randn(2, 7),), strict=False)
    x = torch.randn(2, 3)
    static = torch.export.export(conv, (torch.randn(1, 1, 4, 4),), strict=False)
    dynamic = torch.export.export(tiny, (x,), strict=False, dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=8)},))
    mix = torch.export.export(Mix().eval(), (torch.tensor([[1, 2, 4]]), 0.5), strict=False)
    programs = (("conv", static), ("dynamic", dynamic), ("core", static.run_decompositions()), ("mix", mix), ("waves", waves))
    for name, program in programs:
        forget_folders(program)
        put("pt2", f"{name}.pt2", saved(torch.export.save, program))
    put("json", "model.json", entry(saved(torch.export.save, dynamic), "models/model.json"))
    put("json", "weights.json", entry(saved(torch.export.save, dynamic), "data/weights/model_weights_config.json"))
    script = saved(torch.jit.save, torch.jit.trace(tiny, (x,)))
    put("zip", "script.zip", without_debug_files(script))
    put("pickle", "script.pkl", entry(script, "data.pkl"))
    put("pickle", "state_dict.pkl", entry(saved(torch.save, tiny.state_dict()), "data.pkl"))


def engines(cli: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "e.kiln"
        for model in sorted((HERE / "pt2").glob("*.pt2")):
            for target in ("reference", "cpu:scalar"):
                subprocess.run([cli, "build", str(model), "-o", str(out), "--target", target], check=True)
                put("engine", f"{model.stem}-{target.replace(':', '-')}-2.kiln", out.read_bytes())  # of version 2; those of 1 stay
            subprocess.run([cli, "refit", "--strip-weights", str(out)], check=True)
            put("engine", f"{model.stem}-stripped.kiln", out.read_bytes())
            subprocess.run([cli, "build", str(model), "-o", str(out), "--target", "cpu:scalar"], check=True)
            for what, file in (("graph", model), ("plan", out)):
                text = subprocess.run([cli, "inspect", str(file), f"--{what}"], check=True, capture_output=True).stdout
                put("graph_text", f"{model.stem}-{what}.txt", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kiln", help="path of the CLI: adds seeds of engines and graph texts")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    zips()
    safetensors()
    jsons()
    pickles()
    torch_files()
    torchscript_files()
    if arguments.kiln:
        engines(arguments.kiln)
    print(sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()), "bytes of seeds in", HERE)


if __name__ == "__main__":
    main()
