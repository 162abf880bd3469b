"""The rule of `keep_best`: by which metrics a checkpoint can be the best, and which of their values are better."""

from ml_collections import ConfigDict

from contrastive_jax.rules import Rules, did_you_mean

# The metrics of the evaluators of this package: the evaluator that measures each, and which values are better.
METRICS = {
    'eval/knn_top1': ('knn', 'max'),
    'eval/probe_top1': ('probe', 'max'),
    'eval/feature_std': ('signals', 'max'),
    'eval/effective_rank': ('signals', 'max'),
    'eval/uniformity': ('signals', 'min'),
}


def mode_of(config: ConfigDict) -> str:
    """Which values of `keep_best` are better: 'max' or 'min'; '' if it is not known."""
    return str(config.keep_best_mode or METRICS.get(config.keep_best, ('', ''))[1])


def check_best(c: ConfigDict, rules: Rules) -> None:
    """Adds to `rules` what is wrong with `keep_best`.

    Args:
      c: a config whose fields have the right type.
      rules: the rules of the config.
    """
    metric, names = c.keep_best, tuple(c.eval.evaluators)
    if not metric:
        return
    measured = [name for name, (evaluator, _) in METRICS.items() if evaluator in names]
    if metric in METRICS:
        evaluator = METRICS[metric][0]
        rules.rule(
            metric in measured or any(':' in name for name in names),
            f'keep_best {metric!r} is measured by {evaluator!r}, which eval.evaluators {names!r} lacks',
            field='keep_best',
            remedy=f'add {evaluator!r} to eval.evaluators, or choose from {", ".join(measured) or "nothing"}',
        )
        return
    rules.rule(
        metric.startswith('eval/'),
        f'keep_best {metric!r} is no metric of an evaluation{did_you_mean(metric, METRICS)}',
        field='keep_best',
        remedy=f'choose from {", ".join(METRICS)}, or a metric of an evaluator of your own: eval/NAME',
    )
    rules.rule(
        not metric.startswith('eval/') or bool(c.keep_best_mode),
        f'keep_best {metric!r}: it is not known which values are better{did_you_mean(metric, METRICS)}',
        field='keep_best_mode',
        remedy="set keep_best_mode to 'max' or 'min'",
    )
