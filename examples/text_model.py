"""A classifier of texts: TF-IDF and a linear model, which names a topic for each row and how sure it is."""

from pathlib import Path

import joblib

MODEL = joblib.load(Path(__file__).with_name("topics.joblib"))


def topic(df):
    chances = MODEL.predict_proba(df["text"].fillna(""))
    return {"TOPIC": MODEL.classes_[chances.argmax(axis=1)], "CHANCE": chances.max(axis=1)}
