"""Fits the models of examples/ on made-up rows, and others on data sets of scikit-learn, and writes them, and inputs for them, to a
folder: make_models.py FOLDER
"""

import os
import sys

import joblib
import lightgbm
import numpy
import onnx
import pandas
import xgboost
from onnx import TensorProto, helper
from sklearn import datasets
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

WORDS = {"sport": ["goal", "match", "team", "ball"], "money": ["bank", "price", "share", "tax"], "art": ["film", "song"]}


MODULE = """import pathlib

import joblib

MODEL = joblib.load(pathlib.Path(__file__).with_name("%s.joblib"))


def score(df):
    return MODEL.%s(df)
"""


def customers(rows, random):
    return pandas.DataFrame(
        {
            "id": numpy.arange(rows),
            "age": random.integers(18, 90, rows),
            "income": numpy.where(random.random(rows) < 0.1, numpy.nan, numpy.round(random.lognormal(10, 1, rows), 2)),
            "plan": random.choice(["basic", "plus", "pro"], rows),
            "zip": [f"{number:05d}" for number in random.integers(0, 99999, rows)],
        }
    )


def texts(rows, random):
    topics = random.choice(list(WORDS), rows)
    lines = [" ".join(random.choice(WORDS[topic], 4)) + ", the day" for topic in topics]
    return pandas.DataFrame({"id": numpy.arange(rows), "text": lines}), topics


def main():
    os.chdir(sys.argv[1])
    random = numpy.random.default_rng(7)
    table = customers(2000, random)
    target = ((table.age > 50) & (table.income > 20_000) | (table.plan == "pro")).astype(int)
    encode = make_column_transformer((OneHotEncoder(sparse_output=False), ["plan"]), remainder="passthrough")
    pipeline = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=20))
    joblib.dump(pipeline.fit(table[["age", "income", "plan"]], target), "churn.joblib")
    numbers = table[["age", "income"]]
    params = {"objective": "binary", "verbose": -1, "num_threads": 1}
    lightgbm.train(params, lightgbm.Dataset(numbers, target), 20).save_model("churn.lightgbm")
    xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(numbers, target), 20).save_model("churn.ubj")
    shape = [None, 2]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["sums"]), helper.make_node("Sigmoid", ["sums"], ["scores"])],
        "churn",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("weights", TensorProto.FLOAT, [2, 1], [0.02, -0.00001])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, "churn.onnx")
    lines, topics = texts(2000, random)
    joblib.dump(make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(lines["text"], topics), "topics.joblib")
    customers(1000, random).to_csv("customers.csv", index=False)
    texts(1000, random)[0].to_csv("texts.csv", index=False)
    for name, fitted, call in [
        ("iris", make_pipeline(StandardScaler(), LogisticRegression()), "predict_proba"),
        ("wine", RandomForestClassifier(20, random_state=1), "predict_proba"),
        ("breast_cancer", make_pipeline(StandardScaler(), SVC()), "decision_function"),
        ("digits", KNeighborsClassifier(), "predict"),
        ("diabetes", GradientBoostingRegressor(random_state=1), "predict"),
    ]:
        data = getattr(datasets, "load_" + name)(as_frame=True)
        joblib.dump(fitted.fit(data.data, data.target), name + ".joblib")
        data.data.to_csv(name + ".csv", index=False)
        with open(name + "_model.py", "w") as module:
            module.write(MODULE % (name, call))


main()
