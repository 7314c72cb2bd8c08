"""The optimizer of the custom CNN, and the learning rate's course."""

import keras


class SGD(keras.optimizers.SGD):
    """Stochastic gradient descent with Nesterov momentum, in which biases and BatchNorm shifts learn faster.

    Their updates are multiplied by `bias_factor`, at the same weight decay (Jordan 2024, arXiv:2404.00498, who found
    that they lag behind in short trainings). Weight decay is decoupled (Loshchilov & Hutter 2019): the share of a
    weight that is lost in a step, by unit of learning rate.
    """

    def __init__(self, learning_rate, bias_factor=1.0, momentum=0.85, weight_decay=None, **options):
        options = {"name": "sgd", "nesterov": True} | options
        super().__init__(learning_rate, momentum=momentum, weight_decay=weight_decay, **options)
        self.bias_factor = bias_factor

    def build(self, variables):
        super().build(variables)
        self.factors = [self.bias_factor if v.path.endswith(("bias", "beta")) else 1.0 for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)


def schedule(recipe, steps):
    """The learning rate by step: up in a line, down in a cosine to zero, or to the constant rate of `averaging`."""
    down = steps * (recipe.epochs - recipe.averaged_epochs) // recipe.epochs
    warmup = int(recipe.warmup * down)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, down - warmup),
        alpha=recipe.averaging[1] if recipe.averaging else 0.0,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
    )
