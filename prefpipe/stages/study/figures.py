"""The figures of a study: each arm, and the declared contrasts, at each budget.

Reads: ``study.json``, ``results.parquet`` and ``runs.parquet`` of a study's folder, or of the copy
of these three under ``docs/evidence/``.

Promises: all figures of a measure at a budget are over the same prompts, those that have a value
in every run; a contrast is paired by prompt and seed, over the seeds that both arms have; no arm
and no run is left out: those that failed or wait are counted beside the figures.

What `figures_of` returns, values that are not finite being NaN::

    study, model, target                as in the plan
    confidence, bootstrap_draws, bootstrap_seed
    measure                             key of the measure that contrasts are tested on
    worst_below, equivalence            of the plan, or None
    seeds, arms                         of the plan, in its order
    runs      planned, done, failed, waiting: counts of arms by seeds (a run is done when it is
              judged at all budgets)
              not_done: [{arm, seed, budget, status, failed_step, exit_code}]
    budgets   one entry a budget or epoch, in the plan's order:
        budget          "prompts", "response_tokens", "epoch-2"
        arms            one entry an arm: arm, n_planned, n_done, n_failed, n_waiting, seeds (done),
                        step, prompts, response_tokens, trained_tokens, seconds: means over the done
                        runs, or None
        measures        by key (`prefpipe.configs.study_measures`), in the order of the tables; a
                        measure without a value is left out:
            label, form, better
            n_prompts, n_missing    prompts that count, and those that lack a value in some run
            base                    FIGURE of the base, or None where it has none
            arms        one entry an arm that has a value: arm, seeds, FIGURE's keys, by_seed
                        (values in the order of seeds), to_base (FIGURE and by_seed of the paired
                        difference to the base) or None
            contrasts   one entry a contrast, declared ones first, in the plan's order:
                first, second       arms: the difference is first - second
                declared            True: before the first run was judged
                seeds               that both arms have; [] where there is nothing to compare, and
                                    then the numbers below are None
                FIGURE's keys, by_seed
                detectable          difference found with power 0.8 by this test alone
                detectable_holm     the same at Holm's first step over the declared contrasts; of a
                                    contrast that was added later the same as `detectable`
                p, p_holm           two-sided, of the measure that is tested; else None. p_holm is
                                    None of one that was added later: it is not corrected
                equivalence         {margin, low, high, p, p_holm, is_equivalent} or None
                verdict             "higher", "lower": first against second; "not_separable";
                                    "unknown" without an error; "untested" of other measures
                sentence            the same in words
    notes     [text]

A FIGURE is {mean, se, low, high, df}: low and high are ends of the two-level bootstrap interval.
"""
