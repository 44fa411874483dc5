"""Modules that know time, and the few plain layers that torch lacks."""

from ..neuron import SynapseFilter
from .at_once import AssociativeLeaky, ParallelLIF
from .attention import QKAttention, SpikeDrivenSelfAttention, SpikingSelfAttention
from .delay import Delay
from .delay_schedule import DelaySchedule
from .dropout import DropConnectLinear, Dropout
from .dsr import DSRIF, DSRLIF
from .glif import GLIF
from .inhibition import Inhibition
from .learned_delay import DelayConv2d, DelayLinear, LearnedDelay
from .norm_neuron import NormNeuron
from .norms import BNTT, TEBN, NeuNorm, td_batch_norm
from .online import OTTT
from .parallel import PSN, MaskedPSN, SlidingPSN
from .recurrent import ILC, OneToOne, Recurrent
from .recurrent_networks import SConv2dLSTM, SpikingGRU, SpikingLSTM, SpikingRNN
from .reparametrised import RepConv
from .sparse import SparseLinear
from .standardised import WSConv2d, WSLinear
from .temporal_attention import TCJA, MultiDimensionalAttention, TemporalAttention
from .voting import Voting

__all__ = [
    "BNTT",
    "DSRIF",
    "DSRLIF",
    "GLIF",
    "ILC",
    "OTTT",
    "PSN",
    "TCJA",
    "TEBN",
    "AssociativeLeaky",
    "Delay",
    "DelayConv2d",
    "DelayLinear",
    "DelaySchedule",
    "DropConnectLinear",
    "Dropout",
    "Inhibition",
    "LearnedDelay",
    "MaskedPSN",
    "MultiDimensionalAttention",
    "NeuNorm",
    "NormNeuron",
    "OneToOne",
    "ParallelLIF",
    "QKAttention",
    "Recurrent",
    "RepConv",
    "SConv2dLSTM",
    "SlidingPSN",
    "SparseLinear",
    "SpikeDrivenSelfAttention",
    "SpikingGRU",
    "SpikingLSTM",
    "SpikingRNN",
    "SpikingSelfAttention",
    "SynapseFilter",
    "TemporalAttention",
    "Voting",
    "WSConv2d",
    "WSLinear",
    "td_batch_norm",
]
