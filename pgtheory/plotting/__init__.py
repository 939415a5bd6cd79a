"""The figures of the book, drawn with matplotlib, which the extra `plotting` installs. Nothing imports this module.

Each function returns a `Drawing`, which a notebook shows on white and the book in the colours of the page. One colour
has one meaning in the whole book: see `PALETTE`.

.. no equation: it draws what others compute
"""

try:
    import matplotlib  # noqa: F401 - asked for here, so that its absence is explained
except ImportError as error:
    raise ImportError('matplotlib is not installed: pip install "pgtheory[plotting]"') from error

from pgtheory.plotting._chapters import (
    plot_ascents,
    plot_bands,
    plot_baseline_variance,
    plot_bias_and_deviation,
    plot_clipped_surrogate,
    plot_contraction,
    plot_corridor,
    plot_decoding_performance,
    plot_difficulty,
    plot_discount_factors,
    plot_estimates,
    plot_fields,
    plot_gradient_clouds,
    plot_landscape,
    plot_learning_curves,
    plot_ledger,
    plot_length_bias,
    plot_mistake,
    plot_nucleus,
    plot_plateaus,
    plot_rates,
    plot_returns_by_discount,
    plot_simplex_flow,
    plot_surrogate_gap,
    plot_temperature_paths,
    plot_total_rewards,
    plot_training,
    plot_trajectory_counts,
    plot_two_action_response,
    plot_values_by_steps_left,
    plot_variance_by_batch,
    plot_z_scores,
    simplex_grid,
)
from pgtheory.plotting._diagrams import draw_backup, draw_mdp, plot_interaction_loop
from pgtheory.plotting._grids import icons_of, plot_grid_changes, plot_value_grid, plot_visitation_maps
from pgtheory.plotting._moves import (
    move_ascent,
    move_clip,
    move_clouds,
    move_decoding,
    move_lambda,
    move_return,
    move_value_iteration,
    move_values,
)
from pgtheory.plotting._moving import Control, Mark, Moving, Panel
from pgtheory.plotting._theme import FAINT, PALETTE, PAPER, Colour, Drawing, color

__all__ = [
    "FAINT",
    "PALETTE",
    "PAPER",
    "Colour",
    "Control",
    "Drawing",
    "Mark",
    "Moving",
    "Panel",
    "color",
    "draw_backup",
    "draw_mdp",
    "icons_of",
    "move_ascent",
    "move_clip",
    "move_clouds",
    "move_decoding",
    "move_lambda",
    "move_return",
    "move_value_iteration",
    "move_values",
    "plot_ascents",
    "plot_bands",
    "plot_baseline_variance",
    "plot_bias_and_deviation",
    "plot_clipped_surrogate",
    "plot_contraction",
    "plot_corridor",
    "plot_decoding_performance",
    "plot_difficulty",
    "plot_discount_factors",
    "plot_estimates",
    "plot_fields",
    "plot_gradient_clouds",
    "plot_grid_changes",
    "plot_interaction_loop",
    "plot_landscape",
    "plot_learning_curves",
    "plot_ledger",
    "plot_length_bias",
    "plot_mistake",
    "plot_nucleus",
    "plot_plateaus",
    "plot_rates",
    "plot_returns_by_discount",
    "plot_simplex_flow",
    "plot_surrogate_gap",
    "plot_temperature_paths",
    "plot_total_rewards",
    "plot_training",
    "plot_trajectory_counts",
    "plot_two_action_response",
    "plot_value_grid",
    "plot_values_by_steps_left",
    "plot_variance_by_batch",
    "plot_visitation_maps",
    "plot_z_scores",
    "simplex_grid",
]
