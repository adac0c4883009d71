"""What scripted code can say: control flow, numbers, containers, strings, types, functions, classes.

torch.jit.script reads this file's source, so annotations are the types that TorchScript knows (no `from __future__` here).
"""

# Python that would be written otherwise is here on purpose: it is what the compiled code must understand.
# ruff: noqa: UP006, UP035, RUF005, SIM108, SIM118, C416, PLC0206, UP031, UP032, PLR0133, PLW1641

import math
from collections import OrderedDict
from enum import Enum
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor

from torchscript_case import NUMBERS, X, case

# ---- Control flow on what is known at build time ---------------------------------------------------------------------------------


@case(X(3, 4))
def if_on_shape(x: Tensor) -> Tensor:
    if x.size(0) > 2 and x.dim() == 2:
        y = x * 2
    elif x.size(0) == 1:
        y = x - 1
    else:
        y = x + 1
    return y


@case(X(3, 4))
def for_over_range(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for i in range(1, 6, 2):
        y = y + x * i
    for i in range(3, 0, -1):
        y = y * 0.5 + i
    return y


@case(X(4, 3))
def for_over_tensor(x: Tensor) -> Tensor:
    y = torch.zeros(3)
    for row in x:
        y = torch.maximum(y, row)
    return y


@case(X(5, 2))
def while_on_shape(x: Tensor) -> Tensor:
    n = x.size(0)
    steps = 0
    while n > 0:
        x = x + n
        n = n // 2
        steps += 1
    return x * steps


@case(X(6, 2))
def break_and_continue(x: Tensor) -> Tensor:
    y = x[0]
    for i in range(x.size(0)):
        if i % 2 == 0:
            continue
        if i > 4:
            break
        y = y + x[i] * i
    return y


@case(X(3, 4))
def early_return(x: Tensor) -> Tensor:
    if x.size(1) == 4:
        if x.size(0) == 2:
            return x
        return x.relu()
    return x * 3


@case(X(4, 4))
def nested_loops(x: Tensor) -> Tensor:
    total = torch.zeros(4)
    for i in range(x.size(0)):
        for j in range(i, x.size(1)):
            if i == j:
                continue
            total = total + x[i] * x[j, 0]
            if j == 2:
                break
    return total


@case(X(3, 4))
def while_with_return(x: Tensor) -> Tensor:
    i = 0
    while True:
        i += 1
        x = x + i
        if i == 4:
            return x
    return x * 0


@case(X(2, 3))
def ternary_and_boolean(x: Tensor) -> Tensor:
    scale = 2.0 if x.size(0) == 2 else 3.0
    flag = not (x.size(1) == 3 or x.size(5) == 2)  # the right side must not be evaluated
    return x * scale + (1 if flag else -1)


@case(X(2, 3))
def assertion(x: Tensor) -> Tensor:
    assert x.size(0) == 2, "two rows, please"
    if x.dim() > 4:
        raise ValueError("too many dimensions")
    return x + 1


# ---- Control flow on data ------------------------------------------------------------------------------------------------------------


@case(NUMBERS(1.0, -1.0, 0.0))
def if_on_data(x: Tensor) -> Tensor:
    if x > 0:
        y = x * 2
    else:
        y = x - 1
    return y


@case(X(3), NUMBERS(1.0, -2.0, 3.0))
def elif_on_data(x: Tensor, t: Tensor) -> Tensor:
    if bool(t > 2):
        x = x.exp()
    elif bool(t > 0):
        x = x * t
        x = x + 1
    else:
        x = x.abs()
    return x * 2


@case(X(3), NUMBERS(1.0, -2.0, 3.0))
def return_on_data(x: Tensor, t: Tensor) -> Tensor:
    if t < 0:
        return x.sin()
    x = x + 1
    if t > 2:
        return x.cos()
    return x


@case(X(4), NUMBERS(3, 0, 5))
def while_on_data(x: Tensor, n: Tensor) -> Tensor:
    i = torch.zeros([], dtype=torch.int64)
    while bool(i < n):
        x = x * 1.5
        i = i + 1
    return x


@case(NUMBERS(3.0, 50.0, 1000.0))
def while_on_value(x: Tensor) -> Tuple[Tensor, int]:
    steps = 0
    while bool(x > 1):
        x = x / 2
        steps += 1
    return x, steps


@case(X(5), NUMBERS(2, 0, 4))
def for_on_data(x: Tensor, n: Tensor) -> Tensor:
    for i in range(int(n)):
        x = x + i
    return x


@case(X(5), NUMBERS(0.5, -0.5, 9.0))
def break_on_data(x: Tensor, t: Tensor) -> Tensor:
    total = torch.zeros([])
    for i in range(x.size(0)):
        total = total + x[i].abs()
        if bool(total > t):
            break
    return total


@case(X(4), NUMBERS(0.1, -0.3, 2.0))
def item_and_arithmetic(x: Tensor, t: Tensor) -> Tensor:
    v = float(t.item())
    w = v * 2 + 1
    if w > 1:
        w = w - 0.5
    return x * w + max(v, 0.25)


@case(X(4), NUMBERS(2, 3, 0))
def int_from_data(x: Tensor, n: Tensor) -> Tuple[Tensor, int, float, bool]:
    k = int(n)
    return x + k, k * 2 + 1, k / 4, k > 1


@case(X(3), NUMBERS(1, 0, 1))
def several_values_from_a_branch(x: Tensor, t: Tensor) -> Tuple[Tensor, int, float]:
    a = x
    n = 0
    f = 1.0
    if bool(t):
        a = x * 2
        n = 3
        f = float(x.sum())
    return a, n, f


@case(X(3), NUMBERS(1, 0, 1))
def views_and_writes_in_a_branch(x: Tensor, t: Tensor) -> Tensor:
    y = x.clone()
    if bool(t):
        y[1] = 7.0
        y.mul_(2)
    else:
        y[0:2].add_(1)
    return y


@case(X(4, 3))
def loop_over_length_writes_rows(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    carry = torch.zeros(3)
    for t in range(x.size(0)):
        carry = torch.tanh(carry * 0.5 + x[t])
        out[t] = carry
    return out


@case(X(3), NUMBERS(1.0, -1.0, 5.0))
def exception_on_data_is_not_reached(x: Tensor, t: Tensor) -> Tensor:
    if x.dim() == 2:
        raise RuntimeError("a vector, please")
    if bool(t > 2):
        return x
    return -x


# ---- Numbers that are data: known when the engine runs ---------------------------------------------------------------------------

COUNTS = NUMBERS(2, 3, -1)


@case(COUNTS)
def data_integers(t: Tensor) -> List[int]:
    n = int(t)
    out = [n + 1, n - 3, n * 2, n // 2, n % 3, -n, abs(n), n << 1, n >> 1, n & 1, n | 4, n ^ 5, min(n, 1), max(n, 2), 7 // (n + 5)]
    a, b = divmod(n, 3)
    return out + [10 - n, a, b, sum([n, 2, 3])]


@case(COUNTS)
def data_floats(t: Tensor) -> List[float]:
    n = float(t)
    out = [n + 1, n - 0.5, n * 2, n / 3, n // 2, n % 2.5, -n, abs(n), n**2, min(n, 0.5), max(n, 2.0), 1 / (n + 5), 2 - n, n**3.0]
    return out + [float(round(n)), float(int(t) * 2), sum([n, 0.5])]


@case(COUNTS)
def data_in_math(t: Tensor) -> List[float]:
    n = float(t) + 2
    return [
        math.sqrt(n), math.exp(n), math.log(n), math.log10(n), math.log1p(n), math.sin(n), math.cos(n), math.tan(n), math.asin(n / 9),
        math.acos(n / 9), math.atan(n), math.atan2(n, 2.0), math.sinh(n), math.cosh(n), math.tanh(n), math.pow(n, 0.5), math.fabs(-n),
        math.fmod(n, 2.0), math.copysign(3.0, n), math.erf(n), math.expm1(n),
    ]  # fmt: skip


@case(COUNTS)
def data_comparisons(t: Tensor) -> List[bool]:
    n = int(t)
    f = float(t)
    flags = [bool(t > 1), bool(t > 2)]
    tests = [math.isnan(f), math.isinf(f), math.isfinite(f), any(flags), all(flags)]
    logic = [bool(n), not bool(n), n > 0 and f > 2, n < 0 or f > 2]
    return tests + logic + [n < 2, n <= 2, n > 2, n >= 3, n == 3, n != 3, f < 2.5, f == 3.0, n > f]


@case(COUNTS)
def data_rounded(t: Tensor) -> List[int]:
    f = float(t) * 0.7
    return [int(f), math.floor(f), math.ceil(f), int(bool(t))]


@case(X(4, 4), COUNTS)
def data_in_tensor_calls(x: Tensor, t: Tensor) -> List[Tensor]:
    n = int(t)
    f = float(t)
    made = [torch.full([2], f), torch.full_like(x, n), torch.tensor(n), torch.tensor([n, 1]), torch.tensor(f), x.clone().fill_(f)]
    chosen = [x.clamp(-f - 5, f + 5), x.masked_fill(x > 0, f), torch.where(x > 0, x, f)]
    return made + chosen + [x + n, x * f, x > f, x - n, n - x, x / (n + 7), x**2 * n]


@case(X(4, 4), COUNTS)
def data_as_index(x: Tensor, t: Tensor) -> List[Tensor]:
    n = int(t)
    parts = [x, x * 2, x * 3, x + 1]
    return [x[n], x[:, n % 2], parts[n], torch.tensor([1, 2, 3, 4][n]), x.select(0, n), x.narrow(0, n % 2, 2)]


@case(X(4, 4), COUNTS)
def data_chooses_numbers(x: Tensor, t: Tensor) -> Tensor:
    n = 1 if bool(t > 2) else 5
    f = 0.5 if n == 1 else 2.0
    return x * n + f


@case(X(4, 4), COUNTS)
def data_bounds_a_sum(x: Tensor, t: Tensor) -> Tuple[Tensor, int]:
    total = 0
    for i in range(int(t) + 3):
        if i % 2 == 0:
            total += i
        else:
            total -= 1
    return x * total, total


@case(X(4, 4), COUNTS)
def nested_loops_on_data(x: Tensor, t: Tensor) -> Tensor:
    i = 0
    while i < int(t):
        j = 0
        while j < i:
            x = x + j
            j += 1
        i += 1
    return x


@case(X(4, 4), COUNTS)
def return_from_a_loop(x: Tensor, t: Tensor) -> Tensor:
    for i in range(x.size(0)):
        if bool(t < i):
            return x[i] * 10
    return x[0]


@case(X(4, 4), COUNTS)
def containers_in_a_branch(x: Tensor, t: Tensor) -> Tensor:
    d = {"a": x, "b": x * 2}
    parts = [x, x * 2]
    pair = (x, x * 2)
    if bool(t > 2):
        d["a"] = d["b"] + 1
        parts.append(x * 3)
        pair = (x * 3, x)
    else:
        d["b"] = x * 7
        parts.append(x * 4)
    return d["a"] + d["b"] + parts[0] + parts[2] + pair[0] - pair[1]


@case(X(4, 4), COUNTS)
def exception_text_with_data(x: Tensor, t: Tensor) -> Tensor:
    if x.dim() == 3:
        raise ValueError(f"{int(t)} is not right")
    return x


@case(X(4, 4), COUNTS)
def row_chosen_by_data_is_written(x: Tensor, t: Tensor) -> Tensor:
    y = x.clone()
    y[int(t)] = 5.0
    y[:, int(t)] += 1
    y[int(t)].mul_(2)
    return y


# ---- Numbers ------------------------------------------------------------------------------------------------------------------------


@case(X(7))
def integer_arithmetic(x: Tensor) -> List[int]:
    n = x.size(0)
    return [n // 2, -n // 2, n % 3, -n % 3, n % -3, n * n, n << 2, n >> 1, n & 3, n | 8, n ^ 5, -n, abs(-n)]


@case(X(7))
def float_arithmetic(x: Tensor) -> List[float]:
    n = float(x.size(0))
    return [n / 2, n // 2, -n // 2, n % 2.5, -n % 2.5, n**0.5, 2**-3, n * 1e-3, float(round(2.5)), float(round(-1.5)), abs(-n)]


@case(X(7))
def math_functions(x: Tensor) -> List[float]:
    n = x.size(0)
    return [
        math.sqrt(n), math.exp(-1.5), math.log(n), math.log10(n), math.log1p(n), math.sin(n), math.cos(n), math.tan(0.5),
        math.asin(0.5), math.acos(0.5), math.atan(n), math.atan2(1.0, -2.0), math.sinh(0.5), math.cosh(0.5), math.tanh(0.5),
        math.pow(2.0, 0.5), math.fabs(-2.5), math.fmod(-7.5, 2.0), math.copysign(3.0, -0.5), math.degrees(1.0), math.radians(90.0),
        math.erf(0.3), math.gamma(4.5), math.lgamma(4.5), math.pi, math.inf, math.expm1(0.5), math.ldexp(0.75, 3),
    ]  # fmt: skip


@case(X(7))
def rounding_functions(x: Tensor) -> List[int]:
    n = x.size(0) / 2
    return [math.floor(n), math.ceil(n), math.floor(-n), math.ceil(-n), int(n), int(-n), math.gcd(12, 18), math.factorial(5)]


@case(X(7))
def comparisons(x: Tensor) -> List[bool]:
    n = x.size(0)
    f = n * 0.5
    return [
        n < 8,
        n <= 7,
        n > f,
        f >= 3.5,
        n == 7,
        n != 7,
        f == 3.5,
        n == 7.0,
        1 < n < 9,
        math.isnan(f),
        math.isinf(f),
        bool(n),
        not n,
    ]


@case(X(7))
def min_max_divmod(x: Tensor) -> Tuple[int, float, int, int, int, float, float]:
    n = x.size(0)
    a, b = divmod(-n, 3)
    return min(n, 3), max(n * 0.5, 2.0), max([1, n, 4]), a, b, min([2.5, 1.5]), float("1.5")


@case(X(2, 3))
def numbers_in_tensor_calls(x: Tensor) -> Tensor:
    n = x.size(1)
    return x * n + n / 2 - int(n > 2) + torch.full([2, 3], n) + torch.tensor(n * 0.5)


@case(X(2, 3))
def mixed_number_types(x: Tensor) -> Tensor:
    scale: Union[int, float] = 3
    if x.size(0) == 2:
        scale = 0.5
    return x * float(scale) + int(True)


# ---- Lists, tuples, dicts -----------------------------------------------------------------------------------------------------------


@case(X(2, 3))
def list_methods(x: Tensor) -> Tuple[List[int], int, int, int]:
    a = [3, 1, 2]
    a.append(x.size(0))
    a.extend([9, 8])
    a.insert(1, 7)
    last = a.pop()
    first = a.pop(0)
    a.remove(2)
    a.reverse()
    b = a.copy()
    b.sort()
    b[0] = -1
    b += [100]
    del b[1]
    a.clear()
    a.append(b.count(100))
    return b + a, last, first, b.index(100)


@case(X(2, 3))
def lists_are_shared(x: Tensor) -> Tuple[List[int], List[int], bool]:
    a = [1, 2]
    b = a
    b.append(3)
    c = list(a)
    c.append(4)
    return a, c, a is b


@case(X(4, 3))
def list_of_tensors(x: Tensor) -> Tuple[Tensor, Tensor, List[Tensor]]:
    parts: List[Tensor] = []
    for i in range(x.size(0)):
        parts.append(x[i] * i)
    parts[0] = parts[0] + 1
    return torch.stack(parts), torch.cat(parts[1:3]), parts[::2]


@case(X(4, 3))
def list_slices(x: Tensor) -> List[int]:
    a = [0, 1, 2, 3, 4, 5]
    return a[2:] + a[:-2] + a[::3] + a[-3:-1] + [len(a)] + a[10:]


@case(X(4, 3))
def list_repetition_and_membership(x: Tensor) -> Tuple[List[int], List[bool]]:
    a = [x.size(0), 1] * 2
    return a, [4 in a, 5 in a, a == [4, 1, 4, 1], a != [1], "b" in ["a", "b"]]


@case(X(4, 3))
def comprehensions(x: Tensor) -> Tuple[List[int], List[Tensor], Dict[str, int]]:
    squares = [i * i for i in range(x.size(0))]
    evens: List[int] = []
    for v in squares:
        if v % 2 == 0:
            evens.append(v)
    rows = [row * 2 for row in x.unbind(0)]
    table = {k: len(k) for k in ["a", "bb", "ccc"]}
    return squares + evens, rows, table


@case(X(4, 3))
def sorting(x: Tensor) -> Tuple[List[int], List[float], List[str], List[Tuple[int, str]]]:
    numbers = sorted([3, 1, 2])
    numbers.sort(reverse=True)
    return numbers, sorted([0.5, -1.0]), sorted(["b", "a", "C"]), sorted([(2, "b"), (1, "z"), (2, "a")])


@case(X(4, 3))
def enumerate_and_zip(x: Tensor) -> Tensor:
    y = torch.zeros(3)
    for i, row in enumerate(x.unbind(0)):
        y = y + i * row
    for a, b in zip([1, 2, 3], [0.5, 0.25, 0.125]):
        y = y + a * b
    for i, (a, b) in enumerate(zip(x.unbind(0), [1, 2, 3, 4][::-1])):
        y = y - a * b * i
    return y


@case(X(4, 3))
def any_and_all(x: Tensor) -> List[bool]:
    sizes = [s > 3 for s in x.shape]
    return [any(sizes), all(sizes), all([True, x.dim() == 2]), any([False])]


@case(X(4, 3))
def sum_of_lists(x: Tensor) -> Tuple[int, float, int]:
    return sum([1, 2, x.size(0)]), sum([0.5, 0.25]), len([1, 2]) + len("abc") + len({"a": 1}) + len(x)


@case(X(4, 3))
def nested_lists(x: Tensor) -> Tuple[List[List[int]], Tensor]:
    grid: List[List[int]] = []
    for i in range(2):
        grid.append([i + j for j in range(3)])
    grid[1][2] = 50
    return grid, torch.tensor(grid) + x[:2].to(torch.int64)


@case(X(4, 3))
def tuples(x: Tensor) -> Tuple[Tuple[Tensor, int], Tensor]:
    pair = (x, 3)
    a, b = pair
    nested = (pair, (1, "s"))
    (c, d), (e, text) = nested
    if pair[1] == 3 and text == "s":
        a = a + e
    return (a, b + d), c * nested[1][0]


@case(X(4, 3))
def tuple_slices_and_unpacking(x: Tensor) -> Tuple[Tensor, int, List[int]]:
    t = (1, 2, 3, 4)
    first, *rest = (5, 6, 7)
    a, b = x.shape
    u = t[1:3] + (9,)
    return x.reshape(b, a), u[0] + u[2] + len(u), [rest[0], rest[1], first]


@case(X(4, 3))
def dict_methods(x: Tensor) -> Tuple[Dict[str, int], List[str], List[int], int]:
    d = {"b": 1, "a": 2}
    d["c"] = x.size(0)
    d["b"] += 10
    d.update({"d": 7})
    gone = d.pop("a")
    keys = list(d.keys())
    values = [v for v in d.values()]
    total = gone + d.get("none", 5) + d.setdefault("e", 3)
    for k, v in d.items():
        total += v + len(k)
    if "c" in d and "z" not in d:
        del d["c"]
    return d, keys, values, total


@case(X(4, 3))
def dict_of_tensors(x: Tensor) -> Dict[str, Tensor]:
    d: Dict[str, Tensor] = {}
    d["x"] = x
    d["y"] = d["x"] * 2
    for k in d:
        d[k] = d[k] + 1
    e = {"z": d["y"]}
    d.update(e)
    return d


@case(X(4, 3))
def dict_with_int_keys(x: Tensor) -> Tuple[int, float, List[int]]:
    d = {2: 1.5, 1: 0.5}
    n = 0
    for k in d:
        n = n * 10 + k
    e: Dict[float, int] = {0.5: 3}
    e[2.0] = 4
    return n, d[1] + d.get(9, -1.0), [e[2.0]] + sorted([k for k in d])


@case(X(4, 3))
def ordered_dict(x: Tensor) -> Tensor:
    d = OrderedDict([("a", 1), ("b", 2)])
    for k, v in d.items():
        if k == "b":
            x = x * v
    return x


@case({"x": X(2, 3), "y": X(3)})
def dict_argument(d: Dict[str, Tensor]) -> Dict[str, Tensor]:
    return {"sum": d["x"] + d["y"], "x": d["x"]}


@case([X(2, 3), X(3)], (X(2, 1), X(1)))
def list_and_tuple_arguments(xs: List[Tensor], pair: Tuple[Tensor, Tensor]) -> Tuple[Tensor, List[Tensor]]:
    y = pair[0] + pair[1]
    for x in xs:
        y = y + x
    return y, [y * 2, xs[0]]


# ---- Strings ------------------------------------------------------------------------------------------------------------------------


@case(X(4, 3))
def string_formatting(x: Tensor) -> Tuple[str, str, str, str]:
    n = x.size(0)
    return "n={} of {}".format(n, 1.5), f"{n}:{n * 2}", "%d %s" % (n, "a"), str(n) + str(0.5) + str(True)


@case(X(4, 3))
def string_methods(x: Tensor) -> List[str]:
    s = "  Kiln fires Clay  "
    t = s.strip()
    out = [t.lower(), t.upper(), t.replace("i", "1"), "-".join(t.split(" ")), t[0:4], t[-1], t[::2], t + t]
    out += [t.lstrip("K"), t.rstrip("y"), t.capitalize(), t.swapcase(), t.title(), t.center(20, "*"), t.ljust(17, "."), t.rjust(17)]
    return out + [s.lstrip(), s.rstrip(), "7".zfill(3)] + list("abc")


@case(X(4, 3))
def string_tests(x: Tensor) -> List[bool]:
    s = "layer.0.weight"
    return [
        s.startswith("layer"), s.endswith("bias"), "0" in s, s == "x", s != "x", "a" < "b", s.isdigit(), "12".isdigit(), "ab".isalpha(),
        "a1".isalnum(), "ab".islower(), "AB".isupper(), " ".isspace(),
    ]  # fmt: skip


@case(X(4, 3))
def string_searches(x: Tensor) -> List[int]:
    s = "banana"
    n = 0
    for c in s:
        if c == "a":
            n += 1
    return [s.find("an"), s.rfind("an"), s.find("z"), s.count("an"), s.index("n"), n, ord("a"), int("12"), len(s)]


@case(X(4, 3))
def string_dispatch(x: Tensor, mode: str = "mean") -> Tensor:
    if mode == "sum":
        return x.sum()
    elif mode == "mean":
        return x.mean()
    else:
        raise ValueError(f"unknown mode {mode}")


@case(X(4, 3))
def unicode_strings(x: Tensor) -> Tuple[str, str]:
    return "größe\n\t\"'\\" + chr(65), "naïve ✓"


# ---- Optional, Union, Any, isinstance --------------------------------------------------------------------------------------------------


def _scaled(x: Tensor, scale: Optional[Tensor] = None, factor: Optional[float] = None) -> Tensor:
    if scale is not None:
        x = x * scale
    if factor is None:
        factor = 2.0
    return x * factor


@case(X(2, 3), X(3))
def optional_arguments(x: Tensor, s: Tensor) -> Tensor:
    return _scaled(x) + _scaled(x, s) + _scaled(x, factor=0.5) + _scaled(scale=s, x=x, factor=1.0)


@case(X(2, 3))
def optional_values(x: Tensor) -> Tuple[Optional[Tensor], Optional[int], Tensor]:
    a: Optional[Tensor] = None
    n: Optional[int] = None
    for i in range(3):
        if a is None:
            a = x
        else:
            a = a + i
            n = i
    assert a is not None
    b: Optional[Tensor] = None
    return b, n, a


@case(X(2, 3))
def isinstance_tests(x: Tensor) -> Tensor:
    v: Union[int, List[int], str] = [1, 2]
    if x.dim() == 3:
        v = 5
    if isinstance(v, int):
        return x + v
    elif isinstance(v, list):
        return x + v[1]
    return x


def _describe(v: Any) -> str:
    if isinstance(v, Tensor):
        return "tensor"
    if isinstance(v, (int, float)):
        return "number"
    return "other"


@case(X(2, 3))
def any_type(x: Tensor) -> List[str]:
    return [_describe(x), _describe(3), _describe(0.5), _describe("s"), _describe([1])]


@case(X(2, 3))
def casts_and_annotations(x: Tensor) -> Tensor:
    a = torch.jit.annotate(List[float], [])
    a.append(0.5)
    b = torch.jit.annotate(Optional[int], 3)
    if b is not None:
        return x * a[0] + b
    return x


# ---- Functions ------------------------------------------------------------------------------------------------------------------------


def _double(x: Tensor) -> Tensor:
    return x * 2


def _twice(x: Tensor, n: int = 1, add: float = 0.0) -> Tensor:
    for _ in range(n):
        x = _double(x)
    return x + add


@case(X(2, 3))
def calls_of_functions(x: Tensor) -> Tensor:
    return _twice(x) + _twice(x, 2) + _twice(x, add=1.0) + _twice(n=3, x=x)


def _split_half(x: Tensor) -> Tuple[Tensor, Tensor]:
    h = x.size(-1) // 2
    return x[..., :h], x[..., h:]


@case(X(2, 4))
def functions_that_return_tuples(x: Tensor) -> Tensor:
    a, b = _split_half(x)
    _, c = _split_half(b)
    return a + b + c.sum()


@case(X(2, 3))
def default_arguments(x: Tensor, n: int = 2, scale: float = 0.5, flag: bool = True, sizes: Optional[List[int]] = None) -> Tensor:
    y = x * scale + n
    if sizes is not None:
        y = y.reshape(sizes)
    return y if flag else -y


# ---- Classes ----------------------------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: Tensor
    y: Tensor
    weight: float = 0.5


@case(X(2, 3))
def named_tuples(x: Tensor) -> Point:
    p = Point(x, x * 2)
    q = Point(y=p.x + 1, x=p.y, weight=p.weight * 4)
    a, b, w = q
    return Point(a + q[1] * w, b, q.weight)


@case((X(2, 3), X(3)))
def tuple_argument(p: Tuple[Tensor, Tensor]) -> Tensor:
    return p[0] * p[1]


class Color(Enum):
    RED = 1
    GREEN = 2


class Mode(Enum):
    SUM = "sum"
    MEAN = "mean"


def _paint(c: Color) -> int:
    if c == Color.RED:
        return 10
    return 20 + c.value


@case(X(2, 3))
def enums(x: Tensor) -> Tuple[Tensor, int, str, bool]:
    mode = Mode.MEAN
    total = 0
    for c in Color:
        total += _paint(c)
    if mode == Mode.MEAN:
        return x.mean(), total, mode.name + mode.value, mode != Mode.SUM
    return x.sum(), total, "", False


@torch.jit.script
class Accumulator:
    def __init__(self, start: Tensor, scale: float = 2.0):
        self.total = start
        self.count = 0
        self.scale = scale
        self.history: List[int] = []

    def add(self, x: Tensor) -> "Accumulator":
        self.total = self.total + x * self.scale
        self.count += 1
        self.history.append(self.count)
        return self

    def mean(self) -> Tensor:
        return self.total / self.count

    def __len__(self) -> int:
        return self.count


@case(X(2, 3))
def classes(x: Tensor) -> Tuple[Tensor, int, List[int]]:
    a = Accumulator(torch.zeros_like(x))
    b = a
    for i in range(3):
        b.add(x + i)
    a.scale = 1.0
    a.add(x).add(x)
    return a.mean(), len(a), b.history


@torch.jit.script
class Vector:
    def __init__(self, data: Tensor):
        self.data = data

    def __add__(self, other: "Vector") -> "Vector":
        return Vector(self.data + other.data)

    def __mul__(self, k: float) -> "Vector":
        return Vector(self.data * k)

    def __getitem__(self, i: int) -> Tensor:
        return self.data[i]

    def __eq__(self, other: "Vector") -> bool:
        return self.data.size(0) == other.data.size(0)

    def __lt__(self, other: "Vector") -> bool:
        return self.data.size(0) < other.data.size(0)

    def __contains__(self, k: int) -> bool:
        return k == self.data.size(0)

    @property
    def size(self) -> int:
        return self.data.size(0)

    @staticmethod
    def zero(n: int) -> "Vector":
        return Vector(torch.zeros(n))


@torch.jit.script
class Holder:
    def __init__(self, v: Vector):
        self.inner = v
        self.others: Dict[str, Vector] = {}

    def put(self, k: str, v: Vector) -> None:
        self.others[k] = v

    def total(self) -> Tensor:
        y = self.inner.data
        for k in self.others.keys():
            y = y + self.others[k].data
        return y


@case(X(3))
def classes_in_classes(x: Tensor) -> Tensor:
    h = Holder(Vector(x))
    h.put("a", Vector(x * 2))
    h.inner.data = x + 1
    h.others["a"].data += 5
    return h.total()


@case(X(3))
def operators_of_classes(x: Tensor) -> Tuple[Tensor, List[bool], int]:
    v = Vector(x)
    w = v + v * 3.0
    return w.data + w[1], [v == w, v < w, 3 in v], w.size


@case(X(3))
def static_methods(x: Tensor) -> Tensor:
    return Vector.zero(x.size(0)).data + x
