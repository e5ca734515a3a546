"""The table of methods that predict how jobs end: scores of each, how sure they are, and by how much one leads the others."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int, Int64

from lstm.data.job_events import Log
from lstm.data.job_history import WEEK
from lstm.data.job_windows import Part
from lstm.job_scores import Forecasts, interval, paired, rows_of, scores

JUDGED = ("accuracy", "f1/macro")  # scores that get an interval


def table(
    found: Mapping[str, Forecasts], first: str, log: Log, train: Part, names: Sequence[str], bad: Sequence[str]
) -> dict[str, dict[str, float]]:
    """{method: scores}. All of the same jobs; `first` is the method whose lead over the others is judged.

    Beside `job_scores.scores`: SCORE/new_users, of the jobs of users without a job in `train`; of JUDGED, SCORE/low and
    SCORE/high, between which it lies in 95 % of the draws of whole users; and of all methods but the first lead/SCORE, the
    first's SCORE less this one's, paired by job, with lead/SCORE/low and /high by users, /weeks_low and /weeks_high by weeks.
    """
    own = found[first]
    users, weeks, new = groups_of(log, own.id, train)
    rows = {}
    for method, forecasts in found.items():
        row = scores(forecasts, names, bad)
        if new.any():
            others = scores(rows_of(forecasts, new), names, bad)
            row |= {f"{name}/new_users": others[name] for name in (*JUDGED, "examples")}
        for score in JUDGED:
            row[f"{score}/low"], row[f"{score}/high"] = interval(forecasts, users, score)
            if method == first:
                continue
            for groups, label in ((users, ""), (weeks, "weeks_")):
                lead = paired(own, forecasts, groups, score)
                row[f"lead/{score}"] = lead.value
                row[f"lead/{score}/{label}low"], row[f"lead/{score}/{label}high"] = lead.low, lead.high
        rows[method] = row
    return rows


def groups_of(
    log: Log, jobs: Int[np.ndarray, " m"], train: Part
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """The user and the week of each job, and whether its user has no job in the training part."""
    users = np.asarray(log.jobs.codes[jobs, 0], np.int64)
    weeks = ((log.jobs.submit[jobs] - log.jobs.submit[0]) // WEEK).astype(np.int64)
    return users, weeks, ~np.isin(users, np.unique(log.jobs.codes[train.first : train.last, 0]))


def in_order(forecasts: Forecasts) -> Forecasts:
    """Those with a label, by number of job."""
    known = np.flatnonzero((np.asarray(forecasts.id) >= 0) & (np.asarray(forecasts.label) >= 0))
    return rows_of(forecasts, known[np.argsort(np.asarray(forecasts.id)[known], kind="stable")])
