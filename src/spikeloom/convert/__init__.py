"""From a trained ordinary network to a spiking one: :func:`inspect`, :func:`convert`, methods and rules.

Methods differ in what a value is over time: the mean of an input that is there at every step (:class:`Rate` and its
kin), or the sum of an input that is there once (:class:`Delta`, :class:`Exact`). Nothing is converted in silence and
nothing is left in silence: every operation of the model is in the report, with the error of every layer.
"""

from __future__ import annotations

from ..core import CaptureError
from .converting import Inspection, convert, inspect
from .errors import ConversionError
from .messages import Messages
from .methods import Balanced, Calibrated, Delta, Exact, FewSpikes, Method, Rate
from .qcfs import QCFS
from .report import Layer, Report
from .result import Result
from .rules import Rule, Rules, rule
from .temporal import Change, Difference, First, Once, Pool, Total
from .waiting import Waiting

__all__ = [
    "QCFS",
    "Balanced",
    "Calibrated",
    "CaptureError",
    "Change",
    "ConversionError",
    "Delta",
    "Difference",
    "Exact",
    "FewSpikes",
    "First",
    "Inspection",
    "Layer",
    "Messages",
    "Method",
    "Once",
    "Pool",
    "Rate",
    "Report",
    "Result",
    "Rule",
    "Rules",
    "Total",
    "Waiting",
    "convert",
    "inspect",
    "rule",
]
