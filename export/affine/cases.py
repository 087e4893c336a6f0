"""Models on which a scale and a shift must find their way, one at least for every operator that they pass."""

from __future__ import annotations

import numpy as np

from edgedeploy.export.samples import Models, Rng, floats, text_model

IMAGE, TOKENS = "float[1,4,8,6] x", "float[2,6,5] x"

# Between a convolution and a norm: "a" is what the convolution gives, "z" what the norm reads.
BEHIND_CONV = (
    'z = Resize<mode="linear", coordinate_transformation_mode="align_corners">(a, , twice)',
    'z = Resize<mode="cubic", exclude_outside=1>(a, , odd)',
    'z = Resize<mode="nearest">(a, , , larger)',
    "z = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(a)",
    "z = GlobalAveragePool(a)",
    "m = ReduceMean<keepdims=0>(a, space) \n z = Unsqueeze(m, space)",
    "u = Tanh(x) \n v = Conv(u, w1) \n z = Concat<axis=1>(a, v)",
    "u = Tanh(x) \n v = Conv(u, w) \n z = Add(a, v)",
    'u = Tanh(x) \n v = Conv(u, w) \n p = Resize<mode="linear">(v, , same) \n z = Sub(p, a)',
    "p = Transpose<perm=[0,2,3,1]>(a) \n q = Identity(p) \n z = Transpose<perm=[0,3,1,2]>(q)",
    'z = Pad<mode="reflect">(a, border)',
    'z = Pad<mode="edge">(a, border)',
    "z = DepthToSpace<blocksize=2>(a)",
    'z = DepthToSpace<blocksize=2, mode="CRD">(a)',
    "f, r = Split<axis=1, num_outputs=2>(a) \n z = Identity(f)",
    "z = Reshape(a, rows)",
    "z = Add(a, k)",
    "m = Mul(a, k) \n z = Add(m, k)",
    "i = Div(k, a) \n e = Conv(i, w8) \n z = Slice(e, one, far, space1)",
)
# Behind a norm that only readers can take: "y" is what the norm gives, "r" the result.
BEFORE_CONV = (
    "u = Reshape(y, flat) \n r = Gemm(u, g)",
    "u = Flatten(y) \n r = Gemm(u, g)",
    "u = MaxPool<kernel_shape=[2,2]>(y) \n r = Conv(u, c)",
    "u = GlobalMaxPool(y) \n r = Conv(u, c1)",
    "u = SpaceToDepth<blocksize=2>(y) \n r = Conv(u, c16)",
    "u = Concat<axis=1>(y, x) \n r = Conv(u, c8)",
    "u = Slice(y, one, far, space1) \n r = Conv(u, c)",
    "u = Gather<axis=1>(y, picks) \n r = Conv(u, c)",
    "u = ReduceMean<keepdims=0>(y, space) \n r = Gemm(u, h)",
    "u = ReduceMax<keepdims=0>(y, space) \n r = Gemm(u, h)",
    "u = Transpose<perm=[0,2,3,1]>(y) \n v = MatMul(u, h) \n r = Add(v, hb)",
    "u = Transpose<perm=[0,2,3,1]>(y) \n v = Squeeze(u, first) \n r = MatMul(v, h)",
    'u = Pad<mode="wrap">(y, border) \n r = Conv(u, c)',
    "u = Identity(y) \n r = Conv(u, c) \n r2 = Conv<strides=[2,2]>(y, c)",
    "u = BatchNormalization(y, n, n, n, n) \n r = Relu(u)",
)
# A scale alone: "m" is s*x.
SCALES = (
    "u = Relu(m) \n r = Conv<pads=[1,1,1,1]>(u, c)",
    "u = LeakyRelu<alpha=0.2>(m) \n r = ConvTranspose(u, d)",
    "u = PRelu(m, slope) \n r = Conv<pads=[1,1,1,1]>(u, c)",
    "u = Abs(m) \n r = Conv<pads=[1,1,1,1]>(u, c)",
    "u = Pad(m, border) \n r = Conv(u, c)",
    "u = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(m) \n r = Conv(u, c)",
    "u = Sigmoid(x) \n v = Mul(u, m) \n r = Conv<pads=[1,1,1,1]>(v, c)",
    "u = Relu(m) \n v = Expand(u, pair) \n r = Conv<pads=[1,1,1,1]>(v, c)",
    "u = Relu(m) \n r = Mul(u, k4)",
)


def norms(rng: Rng, channels: int) -> dict[str, np.ndarray]:
    """Parameters s, t, m, v of a BatchNormalization, scales of both signs."""
    signs = rng.choice([-1, 1], channels)
    return {
        "s": (signs * rng.uniform(0.5, 2, channels)).astype(np.float32),
        "t": floats(rng, channels),
        "m": floats(rng, channels),
        "v": rng.uniform(0.5, 2, channels).astype(np.float32),
    }


def propagated(rng: Rng) -> Models:
    """All of the above and the shared tensors of aggregation pyramids and transformers."""
    w = {
        "w": floats(rng, 8, 4, 3, 3), "w1": floats(rng, 2, 4, 3, 3), "w8": floats(rng, 8, 8, 3, 3),
        "c": floats(rng, 3, 4, 2, 2), "c1": floats(rng, 3, 4, 1, 1),
        "c8": floats(rng, 3, 8, 2, 2), "d": floats(rng, 4, 3, 2, 2), "c16": floats(rng, 3, 16, 2, 2),
        "g": floats(rng, 192, 3), "h": floats(rng, 4, 3), "hb": floats(rng, 3), "k": floats(rng, 8, 1, 1) + 3,
        "k4": floats(rng, 4, 1, 1) + 3, "k0": np.abs(floats(rng, 4, 1, 1)) + 1, "n": np.ones(4, np.float32),
        "slope": floats(rng, 4, 1, 1),
    }  # fmt: skip
    sizes = {
        "twice": np.array([1, 1, 2, 2], np.float32), "odd": np.array([1, 1, 1.7, 1.3], np.float32),
        "same": np.ones(4, np.float32), "larger": np.array([1, 8, 13, 5]), "space": np.array([2, 3]),
        "space1": np.array([3]), "one": np.array([1]), "far": np.array([100]), "first": np.array([0]),
        "border": np.array([0, 0, 1, 2, 0, 0, 1, 0]), "rows": np.array([1, 8, -1, 1]),
        "flat": np.array([1, -1]), "picks": np.array([3, 0, 1, 2]), "pair": np.array([2, 1, 1, 1]),
    }  # fmt: skip
    w |= sizes
    models = []
    for body in BEHIND_CONV:
        channels = 10 if "v = Conv(u, w1)" in body else 2 if "Depth" in body else 4 if "Split" in body else 8
        text = f"a = Conv(x, w) \n {body} \n y = BatchNormalization(z, s, t, m, v) \n o = Relu(y)"
        models.append(
            text_model(
                IMAGE, "o, r" if "Split" in body else "o", _renamed(text), w | _named(norms(rng, channels))
            )
        )
    for body in BEFORE_CONV:
        values = norms(rng, 4)
        if "Max" in body:
            values["s"] = np.abs(values["s"])
        text = f"e = Sin(x) \n y = BatchNormalization(e, s, t, m, v) \n {body.replace('(y, x)', '(y, e)')}"
        outputs = "r, r2" if "r2" in body else "r"
        models.append(text_model(IMAGE, outputs, _renamed(text), w | _named(values)))
    scale = "e = Sin(x) \n m = Mul(e, k0)"
    models += [text_model(IMAGE, "r", f"{scale} \n {body}", w) for body in SCALES]
    return [*models, *_shared(rng)]


def _shared(rng: Rng) -> Models:
    pyramid = (
        'a = Conv(x, w) \n b = Conv(x, v) \n u = Resize<mode="linear">(b, , one) \n s = Add(a, u) \n'
        "n = BatchNormalization(s, s1, t1, m1, v1) \n r = Relu(n) \n p = Conv<pads=[1,1,1,1]>(r, q) \n"
        "z = Concat<axis=1>(a, p) \n c = BatchNormalization(z, s2, t2, m2, v2) \n o = Relu(c)"
    )
    values = {"w": floats(rng, 4, 4, 3, 3), "v": floats(rng, 4, 4, 3, 3), "q": floats(rng, 4, 4, 3, 3)}
    values["one"] = np.ones(4, np.float32)
    for number, channels in ((1, 4), (2, 8)):
        values |= {f"{name}{number}": array for name, array in norms(rng, channels).items()}
    tokens = {
        "w": floats(rng, 5, 7), "b": floats(rng, 7), "cls": floats(rng, 2, 1, 5), "e": floats(rng, 5, 5),
        **norms(rng, 5),
    }  # fmt: skip
    swap = "Transpose<perm=[0,2,1]>"
    norm = f"p = {swap}(i) \n n = BatchNormalization(p, s, t, m, v) \n y = {swap}(n)"
    token_models = [
        f"i = Sin(x) \n {norm} \n r = MatMul(y, w)",
        f"i = Sin(x) \n {norm} \n u = MatMul(y, w) \n r = Add(u, b)",
        f"i = MatMul(x, e) \n {norm} \n r = Relu(y)",
        f"j = MatMul(x, e) \n i = Concat<axis=1>(cls, j) \n {norm} \n r = Sigmoid(y)",
        f"j = LayerNormalization(x, s, t) \n i = Concat<axis=1>(j, j) \n {norm} \n r = Sigmoid(y)",
    ]
    return [
        text_model(IMAGE, "o", pyramid, values),
        *(text_model(TOKENS, "r", _renamed(body), tokens | _named(tokens)) for body in token_models),
    ]


def _renamed(text: str) -> str:
    """Parameters of the norm by names that no tensor has."""
    return text.replace("s, t, m, v)", "_s, _t, _m, _v)").replace("(x, s, t)", "(x, _s, _t)")


def _named(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"_{name}": array for name, array in values.items() if name in ("s", "t", "m", "v")}
