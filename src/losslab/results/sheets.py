"""The tables beside that of the scores, which the files of a sweep and its page have alike."""

from collections.abc import Sequence

from losslab.results import claims, gain_and_loss, kl_to_base, table_formats, tuning
from losslab.results.claims import JudgedClaim
from losslab.results.gain_and_loss import Tradeoff
from losslab.results.kl_to_base import Divergence
from losslab.results.paper import Comparison
from losslab.results.table_formats import Sheet
from losslab.results.tables import Table
from losslab.results.tuning import Tuning


def beside_scores(
    table: Table,
    comparison: Comparison | None,
    judged: Sequence[JudgedClaim],
    tuned: Tuning | None,
    points: Sequence[Tradeoff],
    divergences: Sequence[Divergence],
) -> list[Sheet]:
    """Against the paper, the claims, each objective at its own best value, gain against loss, and the KL to the base.

    Only those of which the sweep has something; `divergences` are those to be shown.
    """
    return [
        *([table_formats.paper_sheet(table, comparison)] if comparison else []),
        *([claims.sheet(judged)] if judged else []),
        *([tuning.sheet(tuned)] if tuned else []),
        *([gain_and_loss.sheet(table, points, divergences)] if points else []),
        *([kl_to_base.sheet(divergences)] if divergences else []),
    ]
