"""A float64 NumPy reference of every cell over a sequence, written from the papers' equations: slow, and plain."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def lstm_row(p, options, x, state, mask):
    """One step of one row: x [I], state {"h", "c", "gates"}. options: the fields of the cell that are not the default."""
    on = lambda name: options.get(name, True)
    names = [n for n, there in zip("ifzo", (on("input_gate"), on("forget_gate") and not options.get("coupled"), True,
                                            on("output_gate")), strict=True) if there]  # fmt: skip
    gate_names = [n for n in names if n != "z"]
    width = len(state["c"])
    source = state["h"] * mask
    if options.get("full_gate_recurrence"):
        source = np.concatenate([source, state["gates"]])
    from_x, from_h = x @ p["W"], source @ p["R"]
    if options.get("layer_norm"):
        from_x, from_h = norm(from_x) * p["gain_W"], norm(from_h) * p["gain_R"]
    net = {n: (from_x + from_h + p["b"])[k * width : (k + 1) * width] for k, n in enumerate(names)}
    peep = lambda n, c: p["p"][gate_names.index(n)] * c if options.get("peephole") else 0.0
    i = sigmoid(net["i"] + peep("i", state["c"])) if "i" in net else np.ones(width)
    f = sigmoid(net["f"] + peep("f", state["c"])) if "f" in net else np.ones(width)
    f = 1 - i if options.get("coupled") else f
    z = np.tanh(net["z"]) if on("input_activation") else net["z"]
    c = i * z + f * state["c"]
    o = sigmoid(net["o"] + peep("o", c)) if "o" in net else np.ones(width)
    inner = norm(c) * p["gain_c"] + p["b_c"] if options.get("layer_norm") else c
    h = o * (np.tanh(inner) if on("output_activation") else inner)
    if options.get("projection"):
        h = h @ p["P"]
    gates = {"i": i, "f": f, "o": o}
    return {"h": h, "c": c, "gates": np.concatenate([gates[n] for n in gate_names])}


def gru_row(p, options, x, state, mask):
    h, n = state["h"], len(state["h"])
    a, b = x @ p["W"] + p["b"], (h * mask) @ p["R"]
    r, u = sigmoid(a[:n] + b[:n]), sigmoid(a[n : 2 * n] + b[n : 2 * n])
    new = np.tanh(a[2 * n :] + r * (b[2 * n :] + p["b_R"]))
    return {"h": (1 - u) * new + u * h}


def rnn_row(p, options, x, state, mask):
    return {"h": np.tanh(x @ p["W"] + (state["h"] * mask) @ p["R"] + p["b"])}


def sequence(row, p, options, x, carry, initial, *, lengths, mask, resets, recurrent_mask, keep, reverse):
    """Outputs [B, T, O] and the carry of x [B, T, I]; keep: {"h": [B, T, H], ...} shares of the old state."""
    batch, time = x.shape[:2]
    outputs = np.zeros((batch, time, carry["h"].shape[1]))
    end = {name: value.copy() for name, value in carry.items()}
    for b in range(batch):
        state = {name: value[b] for name, value in carry.items()}
        for t in reversed(range(time)) if reverse else range(time):
            if t >= lengths[b] or not mask[b, t]:
                continue
            if resets[b, t]:
                state = {name: value[b] for name, value in initial.items()}
            new = row(p, options, x[b, t], state, recurrent_mask[b])
            state = {n: keep[n][b, t] * state[n] + (1 - keep[n][b, t]) * new[n] if n in keep else new[n] for n in state}
            outputs[b, t] = state["h"]
        for name in end:
            end[name][b] = state[name]
    return outputs, end
