"""What remains of a run: curves, pictures, an animation and one page, made of recorded steps.

Needs the ``report`` extra (matplotlib, Pillow and jinja2), which is imported when first needed.
"""

from zograd.report._animation import animation
from zograd.report._folder import Outputs, times_lower, write_folder
from zograd.report._html import Section, write_html
from zograd.report._pictures import comparison, save_picture
from zograd.report._plots import diagnostics_curves, loss_curve
from zograd.report._table import write_history

__all__ = [
    "Outputs",
    "Section",
    "animation",
    "comparison",
    "diagnostics_curves",
    "loss_curve",
    "save_picture",
    "times_lower",
    "write_folder",
    "write_history",
    "write_html",
]
