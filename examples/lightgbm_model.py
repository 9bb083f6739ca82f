"""A LightGBM model that was trained elsewhere."""

from pathlib import Path

import lightgbm

MODEL = lightgbm.Booster(model_file=Path(__file__).with_name("churn.lightgbm"))


def score(df):
    return MODEL.predict(df[MODEL.feature_name()])
