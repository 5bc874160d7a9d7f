"""What a loop's body does with variables."""

from __future__ import annotations

import ast
import textwrap

import pytest

from qcity_nb.cells.loop_body import LoopBody, analyze


def body(source: str) -> LoopBody:
    return analyze(ast.parse(textwrap.dedent(source)).body, ["epoch"])


@pytest.mark.parametrize(
    ("source", "carried"),
    [
        ("w = w + 1", {"w"}),
        ("w += 1", {"w"}),
        ("w = f(w)", {"w"}),
        ("a, b = b, a + b", {"a", "b"}),
        ("first, *rest = rest", {"rest"}),
        ("(x := x + 1)", {"x"}),
        ("if (n := n + 1) > 3: pass", {"n"}),
        ("best = max(best, acc)", {"best"}),
        ("if acc > best:\n    best = acc", {"best"}),
        ("self.best = max(self.best, acc)", {"self.best"}),
        ("params, opt_state = update(params, opt_state, batch)", {"params", "opt_state"}),
        ("for x in data:\n    n += 1", {"n"}),
        ("while x > 1:\n    x = x / 2", {"x"}),
        ("with lock:\n    n += 1", {"n"}),
        ("try:\n    n = n + 1\nexcept ValueError:\n    pass", {"n"}),
        ("try:\n    f()\nexcept ValueError:\n    errors += 1", {"errors"}),
        ("match epoch:\n    case 1: n = n + 1\n    case _: pass", {"n"}),
        ("def count():\n    global n\n    n += 1\ncount()", {"n"}),
        ("def count():\n    nonlocal n\n    n = n + 1\ncount()", {"n"}),
        ("total = [total + x for x in data][-1]", {"total"}),
        ("step = (lambda: step + 1)()", set()),  # read when it is called, and bound by then: not seen
        ("running += loss\nif epoch % 10 == 9:\n    print(running)\n    running = 0.0", {"running"}),
        ("if epoch % 5 == 0:\n    val = evaluate()\nlog(val)", {"val"}),
        ("change = w - before\nbefore = w", {"before"}),
    ],
)
def test_what_the_next_iteration_reads(source: str, carried: set[str]) -> None:
    assert body(source).carried == carried


@pytest.mark.parametrize(
    "source",
    [
        "x = f(epoch)\ny = x + 1\nprint(x, y)",
        "total = 0\nfor x in data:\n    total += x\nprint(total)",
        "w = state['w']\nw = w + 1\nstate['w'] = w",
        "now = time.time()\nprint(now - t0)\nt0 = now",
        "elapsed += time.perf_counter() - t0\nt0 = time.perf_counter()",
        "print([loss for loss in losses])",
        "for loss in losses:\n    print(loss)",
        "running += epoch\nprint(running)\nrunning = 0.0",
        "if mask is None:\n    mask = make_mask(size)\nuse(mask)",
        "try:\n    loss = f()\nexcept RuntimeError:\n    print('oom')\nprint(loss)",
        "if epoch:\n    x = 1\nelse:\n    x = 2\nprint(x)",
        "if epoch:\n    x = 1\nelse:\n    raise ValueError\nprint(x)",
        "import numpy as np\nnp.zeros(3)",
        "def closure():\n    loss = f(x)\n    return loss\nx = epoch\nclosure()",
        "out = model(x)\nloss = out.sum()\ndel out, loss",
        "with open('f') as file:\n    file.write('x')",
        "match epoch:\n    case [a, *rest] if a: print(a, rest)",
        "class Local:\n    size = 3\n    def f(self):\n        return self.size",
        "epoch += 1",
    ],
)
def test_what_each_iteration_makes_anew(source: str) -> None:
    assert body(source).carried == set()


@pytest.mark.parametrize(
    ("source", "mutated"),
    [
        ("history.append(loss)", {"history"}),
        ("history['loss'].append(loss)", {"history"}),
        ("history[epoch] = loss", {"history"}),
        ("counts[word] += 1", {"counts"}),
        ("w -= 0.1", set()),  # bound: the live object decides
        ("w[:] = w * 2", {"w"}),
        ("self.history.append(loss)", {"self.history"}),
        ("del queue[0]", {"queue"}),
        ("np.add(w, b, out=w)", {"w"}),
        ("w[:] = w * 2\nw[...] = 0", {"w"}),
        ("for i in range(n):\n    w[i] = w[i] + 1", {"w"}),
        ("for i in data:\n    w[i] = 1", {"w"}),
        ("w.add_(1)", {"w"}),
        ("random.shuffle(order)", {"order"}),
        ("heapq.heappush(heap, x)", {"heap"}),
        ("batch = next(batches)", {"batches"}),
        ("optimizer.zero_grad()\nloss = f()\noptimizer.step()", {"optimizer"}),
        ("h = history\nh.append(1)", {"history"}),
        ("row = table[0]\nrow['x'] = 1", {"table"}),
        ("def note(x):\n    history.append(x)\nnote(1)", {"history"}),
        ("if x not in seen:\n    seen.add(x)", {"seen"}),
        ("if k not in first:\n    first[k] = epoch", {"first"}),
        ("if k not in counts:\n    counts[k] = 0\ncounts[k] += 1", {"counts"}),
        ("if k in counts:\n    counts[k] = counts[k] + 1\nelse:\n    counts[k] = 1", {"counts"}),
        ("history.append((loss, time.time()))\nloss = f()", {"history"}),
        ("[history.append(x) for x in data]", {"history"}),
        ("losses.append(epoch)\nif epoch % 5 == 0:\n    losses.clear()", {"losses"}),
    ],
)
def test_what_is_changed_in_place(source: str, mutated: set[str]) -> None:
    modules = {"np", "random"}  # only the live object shows that
    assert body(source).mutated - modules == mutated


@pytest.mark.parametrize(
    "source",
    [
        "losses = []\nlosses.append(1)",
        "metric.reset()\nmetric.update(1)",
        "metric.update(1)\nmetric.reset()",
        "losses.append(1)\nlosses = []",
        "rng.manual_seed(epoch)\nx = f(rng)",
        "times.append(time.time() - t0)",
        "if k not in cache:\n    cache[k] = load(k)\nuse(cache[k])",
        "value = cache.get(k)\nif value is None:\n    value = load(k)\n    cache[k] = value",
        "try:\n    value = cache[k]\nexcept KeyError:\n    value = cache[k] = load(k)",
        "for row in make():\n    row['x'] = 1",
        "x = data[0].copy()\nx.append(1)",
        "print(history)",
        "np.add(a, b, out=buffer)\nuse(buffer)",
        "buffer[:] = 0\nbuffer += 1",
        "for i in range(n):\n    buffer[i] = f(i)\nuse(buffer)",
        "writer.add_scalar('loss', 1, epoch)",
        "target.load_state_dict(model.state_dict())",
    ],
)
def test_what_is_not_changed_beyond_the_iteration(source: str) -> None:
    assert body(source).mutated <= {"np"}  # a module, as the live object shows


def test_what_stays_of_an_iteration_that_was_the_best() -> None:
    source = "acc = f()\nif acc > best:\n    best = acc\n    weights = copy(model)"
    assert body(source).kept_with_carried == {"weights"}
    source = "acc = f()\nif acc <= best:\n    continue\nbest = acc\nweights = copy(model)"
    assert body(source).kept_with_carried == {"weights"}
    assert body("acc = f()\nif acc > 0.5:\n    reached = epoch").kept == {"reached"}
    assert body("if epoch % 5 == 0:\n    acc = f()").kept == set()
    assert body("for x in data:\n    loss = f(x)").kept == set()


def test_what_may_be_changed_by_functions() -> None:
    parts = body("train(model, loader)\nagent.learn()\nx = f(y[0])\nmodel2 = make()\ng(model2)")
    assert {"model", "loader", "agent", "y"} <= parts.touched
    assert "model2" not in parts.touched
    assert body("for p in model.parameters():\n    p.data -= p.grad").touched >= {"model"}
    assert body("for p, q in zip(ema, params):\n    p.lerp_(q, 0.1)").touched >= {"ema"}


def test_code_that_may_bind_anything_says_so() -> None:
    assert "exec" in body("exec(text)").uncertain
    assert "import *" in body("from math import *").uncertain
    assert not body("model.eval()\nvalue = eval('1 + 1')").uncertain


def test_what_the_state_mirrors() -> None:
    assert body("best = max(best, acc)\nstate['best'] = float(best)").mirrored == {("state", "best", "best")}


@pytest.mark.parametrize(
    "source",
    [
        "x = x.to(device)",
        "x = np.asarray(x)",
        "for i in range(9):\n    if i % 3 == 0:\n        shown = i\n    print(shown)",
        "for i, x in enumerate(data):\n    if not i:\n        first = x\n    use(first)",
    ],
)
def test_what_is_the_same_in_each_iteration_is_not_carried(source: str) -> None:
    assert not body(source).carried


def test_entries_that_each_iteration_sets_are_not_left_over() -> None:
    assert not body("stats['n'] = 0\nfor x in data:\n    stats['n'] += x").mutated
    assert body("use(stats)\nstats['n'] = 0").mutated == {"stats"}
    assert body("stats['n'] = stats['n'] + 1").mutated == {"stats"}


def test_a_method_whose_result_is_dropped_reads_nothing() -> None:
    assert "writer" not in body("writer.add(epoch)").reads
    assert "meter" in body("value = meter.add(epoch)").reads


def test_changes_of_what_a_container_holds() -> None:
    assert body("axes[0].clear()\naxes[1][2].x = 3").mutated_parts == {"axes"}
    assert body("rows[0] = 1\naxes[0].clear()").mutated_parts == {"axes"}


def test_what_is_bound_before_a_call() -> None:
    assert body("a = 1\nshow()\nb = 2\nshow()").called["show"] == {"epoch", "a"}
