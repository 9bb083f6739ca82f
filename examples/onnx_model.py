"""An ONNX model. By default, its session starts a thread for each core, in each worker."""

from pathlib import Path

import onnxruntime

OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = 1
SESSION = onnxruntime.InferenceSession(Path(__file__).with_name("churn.onnx"), OPTIONS)


def score(df):
    features = df[["age", "income"]].to_numpy("float32")
    return SESSION.run(None, {"features": features})[0]
