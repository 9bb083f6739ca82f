"""A scikit-learn pipeline that was fitted elsewhere, for run-locally --model examples/fitted_model.py:score."""

from pathlib import Path

import joblib

MODEL = joblib.load(Path(__file__).with_name("churn.joblib"))


def score(df):
    return MODEL.predict_proba(df[MODEL.feature_names_in_])[:, 1]
