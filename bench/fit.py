"""Fits the models of fitted.py, and writes their inputs: fit.py CUSTOMERS ROWS TEXTS ROWS"""

import sys

import fitted
import joblib
import numpy
import pandas
from lightgbm import LGBMClassifier
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

TRAINING_ROWS = 20_000
NUMBERS = ["age", "income", "balance"]


def customers(rows, random):
    """Integers, decimals with gaps, words, and codes with leading zeros."""
    balance = numpy.round(random.normal(0, 1000, rows), 2)
    return pandas.DataFrame(
        {
            "id": numpy.arange(rows),
            "age": random.integers(18, 90, rows),
            "income": numpy.round(random.lognormal(10, 1, rows), 2),
            "balance": numpy.where(random.random(rows) < 0.05, numpy.nan, balance),
            "plan": random.choice(["basic", "plus", "pro", "enterprise"], rows),
            "zip": [f"{number:05d}" for number in random.integers(0, 99_999, rows)],
            "active": random.choice(["true", "false"], rows),
        }
    )


def texts(rows, random):
    """Twenty words a row. The frequent ones are as frequent as in a language."""
    words = numpy.array([f"word{number}" for number in range(20_000)])
    chosen = words[numpy.minimum(random.zipf(1.3, (rows, 20)), len(words)) - 1]
    return pandas.DataFrame({"id": numpy.arange(rows), "text": [" ".join(row) for row in chosen]})


def main(customers_csv, rows, texts_csv, text_rows):
    random = numpy.random.default_rng(1)
    table = customers(TRAINING_ROWS, random)
    target = ((table.age > 50) & (table.income > 20_000) | (table.plan == "pro")).astype(int)
    encode = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["plan"]), remainder="passthrough"
    )
    boosted = make_pipeline(encode, HistGradientBoostingClassifier())
    lines = texts(TRAINING_ROWS, random)
    words = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    models = {
        fitted.Boosted: boosted.fit(table[[*NUMBERS, "plan"]], target),
        fitted.Forest: RandomForestClassifier(random_state=1).fit(table[NUMBERS], target),
        fitted.LightGbm: LGBMClassifier(verbose=-1).fit(table[NUMBERS], target),
        fitted.Texts: words.fit(lines["text"], lines["text"].str.len() > lines["text"].str.len().median()),
    }
    fitted.FOLDER.mkdir(parents=True, exist_ok=True)
    for kind, model in models.items():
        joblib.dump(model, fitted.FOLDER / (kind.__name__ + ".joblib"))
    customers(int(rows), random).to_csv(customers_csv, index=False)
    texts(int(text_rows), random).to_csv(texts_csv, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
