#!/usr/bin/env python3
"""The suite's rows in PyTorch, cuDNN and torchvision: the best of every way that a user can easily choose.

    torch_peers.py --core --json peers.json                     on a GPU
    torch_peers.py --like ours.json --device cpu --json p.json   the rows and the shapes of a run of ours
    torch_peers.py --core --dry-run                              no torch needed: lists what would run

Ways: {contiguous, channels_last} in a CUDA graph, with cudnn.benchmark over all of cuDNN's algorithms, and with --compile
torch.compile in the mode max-autotune. As ours, each graph holds launches over rotating inputs and outputs of three times the L2
cache, and the times are medians of CUDA events around replays that are queued behind an untimed one. Inputs are random (times on zeros are too good). The output's schema is in
benches/results/README.md.
"""
import argparse
import collections
import json
import os
import re
import statistics
import sys
import time

MAIN_BATCH = 8
OVER_CACHE = 3
SETS = (2, 1024)
LEAST_LAUNCHES = 16
SUITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "suite.json")


# ---- what is run: as src/bench/suite.rs has it


def configurations(suite):
    """(row, batch, dtype, tail), the most telling first."""
    found = []
    for row in suite["rows"]:
        batches = row.get("batches", [1, 8, 32])
        main = MAIN_BATCH if MAIN_BATCH in batches else batches[-1]
        found += [(0 if batch == main else 1, row, batch, "f16", False) for batch in batches]
        if "tail" in row:
            found.append((2, row, main, "f16", True))
        if row.get("all_dtypes"):
            found += [(3, row, main, dtype, False) for dtype in ("bf16", "f32")]
    found.sort(key=lambda entry: entry[0])
    return [entry[1:] for entry in found]


def key(row, batch, dtype, tail):
    return f"{row['name']} b{batch} {dtype}{' tail' if tail else ''}"


def described(row, batch, tail):
    """Attributes and shapes."""
    attrs, tensors = dict(row.get("attrs", {})), dict(row["tensors"])
    if tail:
        attrs.update(row["tail"]["attrs"])
        tensors.update(row["tail"]["tensors"])
    return attrs, {name: [batch if size == "N" else size for size in shape] for name, shape in tensors.items()}


def reshape(row, attrs, shapes, like):
    """The shapes of a run of ours, which may have scaled the row down."""
    shapes["x"] = list(like["x"])
    if "rois" in shapes:
        for name in ("rois", "offset", "mask"):
            if name in shapes:
                shapes[name] = [like["y"][0], *shapes[name][1:]]
    else:
        for name in ("residual", "offset", "mask"):
            if name in shapes:
                shapes[name] = [like["x"][0], shapes[name][1], *like["y"][2:]]
        if "output_size" in attrs:
            attrs["output_size"] = like["y"][2:]


# ---- the ops


def pair(value, default):
    value = default if value is None else value
    return list(value) if isinstance(value, (list, tuple)) else [value, value]


def activation(torch, name, alpha):
    F = torch.nn.functional
    return {
        "none": lambda z: z,
        "relu": F.relu,
        "relu6": F.relu6,
        "leaky_relu": lambda z: F.leaky_relu(z, alpha),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "silu": F.silu,
        "gelu": F.gelu,
        "hardswish": F.hardswish,
    }[name or "none"]


def function(torch, op, attrs):
    """op as a function of its tensors by name, or None where PyTorch and torchvision have none."""
    F = torch.nn.functional
    stride, dilation = pair(attrs.get("stride"), 1), pair(attrs.get("dilation"), 1)
    groups = attrs.get("groups", 1)
    sides = attrs.get("padding", 0)
    sides = [sides] * 4 if isinstance(sides, int) else list(sides)
    symmetric = sides[:2] == sides[2:]
    act = activation(torch, attrs.get("activation"), attrs.get("alpha", 0.01))

    def padded(x):
        return (x, sides[:2]) if symmetric else (F.pad(x, [sides[1], sides[3], sides[0], sides[2]]), [0, 0])

    def tail(z, t):
        if "residual" in t:
            z = z + t["residual"]
        return act(z)

    def conv2d(t):
        x, padding = padded(t["x"])
        return tail(F.conv2d(x, t["weight"], t.get("bias"), stride, padding, dilation, groups), t)

    def transposed(t):
        extra = pair(attrs.get("output_padding"), 0)
        return tail(F.conv_transpose2d(t["x"], t["weight"], t.get("bias"), stride, sides[:2], extra, groups, dilation), t)

    def depthwise_separable(t):
        mid = activation(torch, attrs.get("mid_activation"), attrs.get("mid_alpha", 0.01))
        x, padding = padded(t["x"])
        z = mid(F.conv2d(x, t["dw_weight"], t.get("dw_bias"), stride, padding, dilation, x.shape[1]))
        return tail(F.conv2d(z, t["pw_weight"], t.get("pw_bias")), t)

    def spatially_separable(t):
        (top, left), (sh, sw), (dh, dw) = sides[:2], stride, dilation
        z = F.conv2d(t["x"], t["col_weight"], t.get("col_bias"), [sh, 1], [top, 0], [dh, 1])
        return tail(F.conv2d(z, t["row_weight"], t.get("row_bias"), [1, sw], [0, left], [1, dw]), t)

    def sub_pixel(t):
        x, padding = padded(t["x"])
        return F.pixel_shuffle(act(F.conv2d(x, t["weight"], t.get("bias"), stride, padding, dilation, groups)), attrs["r"])

    def focus(t):
        x = t["x"]
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        x, padding = padded(x)
        return tail(F.conv2d(x, t["weight"], t.get("bias"), stride, padding, dilation, groups), t)

    def vision(name):
        import torchvision

        return getattr(torchvision.ops, name)

    def deform(t):
        return tail(vision("deform_conv2d")(t["x"], t["offset"], t["weight"], t.get("bias"), stride, sides[:2], dilation, t.get("mask")), t)

    def roi_align(t):
        scale, sampling, aligned = attrs.get("spatial_scale", 1.0), attrs.get("sampling_ratio", 0), attrs.get("aligned", False)
        return vision("roi_align")(t["x"], t["rois"], attrs["output_size"], scale, sampling or -1, aligned)

    return {
        "conv2d": conv2d,
        "conv_transpose2d": transposed if symmetric else None,
        "depthwise_separable": depthwise_separable,
        "spatially_separable": spatially_separable if symmetric else None,
        "sub_pixel_conv": sub_pixel if attrs.get("mode", "crd") == "crd" else None,
        "focus": focus,
        # of r = 1 it is a change of format: rows with x_format have it
        "pixel_shuffle": lambda t: F.pixel_shuffle(t["x"], attrs["r"]) if attrs["r"] > 1 else t["x"].contiguous(memory_format=torch.channels_last),
        "pixel_unshuffle": lambda t: F.pixel_unshuffle(t["x"], attrs["r"]),
        "upsample_bilinear": lambda t: F.interpolate(t["x"], size=attrs["output_size"], mode="bilinear", align_corners=attrs.get("align_corners", False)),
        "max_pool2d": lambda t: F.max_pool2d(t["x"], attrs["kernel_size"], attrs.get("stride"), attrs.get("padding", 0), attrs.get("dilation", 1), attrs.get("ceil_mode", False)),
        "avg_pool2d": lambda t: F.avg_pool2d(t["x"], attrs["kernel_size"], attrs.get("stride"), attrs.get("padding", 0), attrs.get("ceil_mode", False), attrs.get("count_include_pad", True), attrs.get("divisor_override")),
        "adaptive_avg_pool2d": lambda t: F.adaptive_avg_pool2d(t["x"], attrs["output_size"]),
        "deform_conv2d": deform if symmetric else None,
        "roi_align": roi_align,
        "roi_pool": lambda t: vision("roi_pool")(t["x"], t["rois"], attrs["output_size"], attrs.get("spatial_scale", 1.0)),
        "ps_roi_pool": lambda t: vision("ps_roi_pool")(t["x"], t["rois"], attrs["output_size"], attrs.get("spatial_scale", 1.0)),
        # torchvision has no deformable RoI pooling
    }.get(op)


# ---- measuring


class Machine:
    def __init__(self, torch, device):
        self.torch, self.device = torch, device
        self.cuda = device.startswith("cuda")
        if self.cuda:
            properties = torch.cuda.get_device_properties(torch.device(device))
            self.name = properties.name
            self.cache = getattr(properties, "L2_cache_size", 0) or 64 << 20
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False  # f32 is IEEE, as ours
            torch.backends.cudnn.benchmark_limit = 0  # all algorithms, not the first ten
        else:
            self.name, self.cache = "cpu", 0

    def versions(self):
        found = {"torch": self.torch.__version__, "python": sys.version.split()[0]}
        try:
            import torchvision

            found["torchvision"] = torchvision.__version__
        except ImportError:
            pass
        if self.cuda:
            found["cuda"] = str(self.torch.version.cuda)
            found["cudnn"] = str(self.torch.backends.cudnn.version())
        return found

    def ceilings(self):
        """Operations a second of the fastest large matrix product on random data, for each unit: ceilings that are not ours.

        Warms the GPU up too."""
        torch = self.torch
        found = {"how": {}}
        for unit, dtypes, sizes in (("tensor", ("float16", "bfloat16"), (4096, 8192)), ("ffma", ("float32",), (4096,))):
            best = 0.0
            for dtype in dtypes:
                for size in sizes:
                    a, b = (torch.randn(size, size, device=self.device, dtype=getattr(torch, dtype)) for _ in range(2))
                    c = torch.empty_like(a)
                    once = lambda: torch.mm(a, b, out=c)  # noqa: E731
                    self.samples(once, 0.0 if best else 0.3, 3, 1000)
                    rate = 2 * size**3 / statistics.median(self.samples(once, 0.1, 7, 200))
                    if rate > best:
                        best = rate
                        found[f"{unit}_flops_per_second"] = rate
                        found["how"][unit] = f"PyTorch's product of two {size}x{size} matrices of random {dtype}"
                    del a, b, c
        torch.cuda.empty_cache()
        return found

    def tensor(self, name, shape, dtype, channels_last, own_dtype, rois):
        torch = self.torch
        if name == "rois":
            return rois
        value = torch.rand(shape, device=self.device) * 2 - 1
        if name == "mask":
            value = value.abs()
        elif name == "offset":
            value = value * 2
        # torchvision wants offsets and masks in x's dtype; vectors are rounded by PyTorch too
        value = value.to(dtype)
        return value.contiguous(memory_format=torch.channels_last) if channels_last and len(shape) == 4 else value

    def rois(self, shape, x, scale, dtype):
        torch = self.torch
        count, (batch, _, h, w) = shape[0], x
        generator = torch.Generator().manual_seed(21)

        def side(size):
            length = size * (torch.rand(count, generator=generator) * 0.4375 + 0.0625)
            start = torch.rand(count, generator=generator) * (size - length)
            return start, start + length

        (x1, x2), (y1, y2) = side(w / scale), side(h / scale)
        index = torch.arange(count) % batch
        # torchvision wants RoIs in x's dtype
        return torch.stack([index.float(), x1, y1, x2, y2], 1).to(self.device).to(dtype)

    def sync(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def samples(self, once, seconds, least, most):
        """Seconds of each call."""
        found = []
        end = time.perf_counter() + seconds
        while len(found) < least or (time.perf_counter() < end and len(found) < most):
            if self.cuda:
                start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                once()  # untimed: while it runs, what is timed is queued behind it
                start.record()
                once()
                stop.record()
                stop.synchronize()
                found.append(start.elapsed_time(stop) * 1e-3)
            else:
                begin = time.perf_counter()
                once()
                found.append(time.perf_counter() - begin)
        return found


def measure(machine, run, sets, graph, arguments):
    """Seconds of a launch: median, least, most; and the workspace in bytes."""
    torch = machine.torch
    launches = len(sets) * (-(-LEAST_LAUNCHES // len(sets)) if machine.cuda else 1)

    # outputs rotate as inputs do: while they are held, the allocator gives each run another block
    held = collections.deque(maxlen=len(sets))

    def queue():
        for index in range(launches):
            held.append(run(sets[index % len(sets)]))

    workspace = None
    if machine.cuda:
        y = run(sets[0])  # chooses algorithms
        machine.sync()
        size = y.element_size() * y.nelement()
        del y
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y = run(sets[0])
        machine.sync()
        workspace = max(0, torch.cuda.max_memory_allocated() - before - size)
        del y
    else:
        run(sets[0])
    once = queue
    if graph:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run(sets[0])
        torch.cuda.current_stream().wait_stream(side)
        machine.sync()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            queue()
        once = captured.replay
    warm = machine.samples(once, 0.02 if machine.cuda else 0.0, 1, 200)
    del warm
    found = [s / launches for s in machine.samples(once, arguments.seconds if machine.cuda else 0.05, 11 if machine.cuda else 3, 200)]
    return statistics.median(found), min(found), max(found), workspace


def run_row(machine, row, batch, dtype_name, tail, like, arguments):
    torch = machine.torch
    attrs, shapes = described(row, batch, tail)
    if like:
        reshape(row, attrs, shapes, like)
    result = {"key": key(row, batch, dtype_name, tail), "x": shapes["x"], "times": []}
    run = function(torch, row["op"], attrs)
    if run is None:
        result["message"] = f"PyTorch and torchvision have no {row['op']}"
        return result
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[dtype_name]
    if not machine.cuda and dtype == torch.float16:
        dtype = torch.float32  # many CPU kernels have no f16; a CPU's times are for trying this program only
    best = None
    formats = [row["x_format"] == "channels_last"] if "x_format" in row else [False, True]
    with torch.inference_mode():
        for channels_last in formats:
            rois = machine.rois(shapes["rois"], shapes["x"], attrs.get("spatial_scale", 1.0), dtype) if "rois" in shapes else None
            per_run = [n for n in shapes if n in ("x", "residual", "offset", "mask")]
            fixed = {n: machine.tensor(n, s, dtype, channels_last, dtype, rois) for n, s in shapes.items() if n not in per_run}
            fresh = lambda: {**fixed, **{n: machine.tensor(n, shapes[n], dtype, channels_last, dtype, rois) for n in per_run}}  # noqa: E731
            sets = [fresh()]
            if machine.cuda:
                y = run(sets[0])
                moved = sum(t.element_size() * t.nelement() for t in [*(sets[0][n] for n in per_run), y])
                del y
                wanted = min(max(-(-OVER_CACHE * machine.cache // max(moved, 1)), SETS[0]), SETS[1])
                sets += [fresh() for _ in range(wanted - 1)]
            ways = [(True, True, False)] if machine.cuda else [(False, False, False)]
            if arguments.compile:
                ways.append((True, machine.cuda, True))
            for benchmark, graph, compiled in ways:
                torch.backends.cudnn.benchmark = benchmark
                words = ["channels_last" if channels_last else "contiguous", "benchmark" if benchmark else "", "compile" if compiled else "", "graph" if graph else "eager"]
                name = " ".join(word for word in ["torch", *words] if word)
                try:
                    # the graph is captured here, over rotating inputs, rather than by torch.compile
                    options = {"options": {"max_autotune": True, "triton.cudagraphs": False}} if machine.cuda else {}
                    if compiled:
                        torch._dynamo.reset()  # what was compiled for another row has no say
                    chosen = torch.compile(run, dynamic=False, **options) if compiled else run
                    median, least, most, workspace = measure(machine, chosen, sets, graph, arguments)
                except Exception as error:  # one way that fails leaves the others
                    result["message"] = f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                    if machine.cuda:
                        try:
                            machine.sync()
                        except Exception:
                            raise SystemExit(f"the device is lost: {result['message']}")
                    continue
                result["times"].append({"name": name, "median": median, "min": least, "max": most})
                if best is None or median < best:
                    best = median
                    result["workspace_bytes"] = workspace
            del sets, fixed
    if machine.cuda:
        torch.cuda.empty_cache()
    result["times"].sort(key=lambda entry: entry["median"])
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default=SUITE, help="the rows [benches/suite.json]")
    parser.add_argument("--core", action="store_true", help="only the core rows")
    parser.add_argument("--filter", default="", help="only rows whose key matches this regex")
    parser.add_argument("--like", help="results of ours: only its rows, at its shapes")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--compile", action="store_true", help="also torch.compile in the mode max-autotune: minutes more")
    parser.add_argument("--seconds", type=float, default=0.03, help="of samples for each way of each row")
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="begin no row after so many seconds")
    parser.add_argument("--json", help="write the times here, while they come")
    parser.add_argument("--dry-run", action="store_true", help="list the rows; needs no torch")
    arguments = parser.parse_args()
    start = time.monotonic()
    with open(arguments.suite, encoding="utf-8") as file:
        suite = json.load(file)
    likes = None
    if arguments.like:
        with open(arguments.like, encoding="utf-8") as file:
            likes = {(r["row"], r["batch"], r["dtype"], r["tail"]): r for r in json.load(file)["rows"] if r["x"]}
    wanted = []
    for row, batch, dtype, tail in configurations(suite):
        like = likes.get((row["name"], batch, dtype, tail)) if likes is not None else None
        skip = arguments.core and row["set"] != "core" or likes is not None and like is None
        if not skip and re.search(arguments.filter, key(row, batch, dtype, tail)):
            wanted.append((row, batch, dtype, tail, like))
    if arguments.dry_run:
        for row, batch, dtype, tail, like in wanted:
            attrs, shapes = described(row, batch, tail)
            if like:
                reshape(row, attrs, shapes, like)
            print(key(row, batch, dtype, tail), row["op"], json.dumps(attrs), json.dumps(shapes))
        print(f"{len(wanted)} rows")
        return
    try:
        import torch
    except ImportError:
        sys.exit("torch_peers.py needs PyTorch (and torchvision for deformable and RoI rows); --dry-run does not")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU; --device cpu tries this program without one")
    machine = Machine(torch, arguments.device)
    peer = {"name": f"PyTorch {torch.__version__}", "versions": machine.versions(), "device": machine.name}
    ceilings = {}
    if machine.cuda:
        with torch.inference_mode():
            ceilings = machine.ceilings()
    found, saved = [], time.monotonic()

    def save():
        if arguments.json:
            with open(arguments.json + ".part", "w", encoding="utf-8") as file:
                json.dump({"format": 1, "peer": peer, "ceilings": ceilings, "rows": found}, file, indent=1)
            os.replace(arguments.json + ".part", arguments.json)

    try:
        for index, entry in enumerate(wanted):
            if time.monotonic() - start > arguments.time_limit:
                print(f"the time is up: {len(wanted) - index} rows not run", file=sys.stderr)
                break
            result = run_row(machine, *entry, arguments)
            found.append(result)
            best = result["times"][0] if result["times"] else None
            text = f"{best['median'] * 1e6:10.1f} us  {best['name']}" if best else f"  {result.get('message', '')}"
            print(f"[{index + 1}/{len(wanted)}] {result['key']:<56} {text}", file=sys.stderr)
            if time.monotonic() - saved > 10:
                save()
                saved = time.monotonic()
    finally:
        save()
    timed = sum(bool(result["times"]) for result in found)
    print(f"{timed} of {len(wanted)} rows timed by {peer['name']} on {machine.name}")


if __name__ == "__main__":
    main()
