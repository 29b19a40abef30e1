"""Softmax regression by hand: full-batch gradient descent on standardised features, with an L2 penalty."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FLOWERS = Path(__file__).parent / "iris.csv"
SPECIES = ("setosa", "versicolor", "virginica")
EPOCHS = 300

Features = Sequence[float]


def flowers() -> tuple[list[list[float]], list[int]]:
    """Return the measurements in cm of all flowers, and their species by number."""
    with FLOWERS.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [[float(cell) for cell in row[:-1]] for row in rows], [SPECIES.index(row[-1]) for row in rows]


def dot(left: Features, right: Features) -> float:
    """Return the scalar product."""
    return math.fsum(one * other for one, other in zip(left, right, strict=True))


@dataclass(frozen=True)
class Model:
    """What is learnt: how to standardise, and for each species a weight for each feature and a bias, the last."""

    mean: list[float]
    spread: list[float]
    weights: list[list[float]]

    @classmethod
    def trained(cls, features: Sequence[Features], species: Sequence[int], *, rate: float, penalty: float) -> Self:
        """Return the model after `EPOCHS` steps at this rate."""
        columns = list(zip(*features, strict=True))
        mean = [math.fsum(column) / len(column) for column in columns]
        spread = [
            math.sqrt(math.fsum((value - middle) ** 2 for value in column) / len(column))
            for column, middle in zip(columns, mean, strict=True)
        ]
        model = cls(mean, spread, [[0.0] * (len(columns) + 1) for _ in SPECIES])
        inputs = [model.standardised(row) for row in features]
        places = list(zip(*inputs, strict=True))
        for _ in range(EPOCHS):
            guesses = [model.probabilities(row) for row in inputs]
            for kind, weights in enumerate(model.weights):
                errors = [guess[kind] - (truth == kind) for guess, truth in zip(guesses, species, strict=True)]
                for place, weight in enumerate(weights):
                    slope = dot(errors, places[place])
                    shrink = penalty * weight if place < len(columns) else 0.0
                    weights[place] -= rate * (slope / len(inputs) + shrink)
        return model

    def standardised(self, features: Features) -> list[float]:
        """Return the features with mean 0 and spread 1, and a 1 for the bias."""
        return [
            *((value - mean) / spread for value, mean, spread in zip(features, self.mean, self.spread, strict=True)),
            1.0,
        ]

    def probabilities(self, inputs: Features) -> list[float]:
        """Return how likely each species is, for standardised features."""
        scores = [dot(weights, inputs) for weights in self.weights]
        highest = max(scores)
        powers = [math.exp(score - highest) for score in scores]
        return [power / math.fsum(powers) for power in powers]

    def guess(self, features: Features) -> int:
        """Return the likeliest species."""
        likely = self.probabilities(self.standardised(features))
        return likely.index(max(likely))

    def loss(self, features: Sequence[Features], species: Sequence[int]) -> float:
        """Return the mean negative logarithm of what was given to the truth: 0 is perfect."""
        inputs = (self.standardised(row) for row in features)
        given = (self.probabilities(row)[truth] for row, truth in zip(inputs, species, strict=True))
        return -math.fsum(math.log(each) for each in given) / len(species)
