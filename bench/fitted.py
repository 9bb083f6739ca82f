"""Fitted models to measure. fit.py fits them."""

from pathlib import Path

import joblib

FOLDER = Path(__file__).parents[1] / "target" / "bench" / "fitted"


class Fitted:
    """A fitted model that gives the chance of each row."""

    def __init__(self):
        self.model = joblib.load(FOLDER / (type(self).__name__ + ".joblib"))
        self.columns = list(getattr(self.model, "feature_names_in_", ["text"]))

    def __call__(self, df):
        return self.model.predict_proba(df[self.columns])[:, 1]


class Boosted(Fitted):
    """A pipeline with gradient boosting by histograms."""


class Forest(Fitted):
    """A random forest."""


class LightGbm(Fitted):
    """LightGBM, as scikit-learn calls it."""


class Texts(Fitted):
    """A linear model of the words in a text."""

    def __call__(self, df):
        return self.model.predict_proba(df["text"])[:, 1]
