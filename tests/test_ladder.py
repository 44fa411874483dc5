"""Every tutorial of the peers has a page here that teaches what it taught, or belongs to one that is still to come."""

from collections import Counter
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
TO_COME = {
    "07": "beyond classes: regression and generation",
    "08": "a neuron of your own",
    "11": "larger, faster, smaller",
    "12": "what it costs, and where it runs",
    "reinforcement.md": "reinforcement learning",
}
LEFT_OUT = {
    "snnTorch ipu_1": "it is about the tools of one maker of processors, Graphcore",
    "snnTorch optuna": "a search for hyperparameters is Optuna's own subject",
    "snnTorch sconce_model_compression_pruning": "layers are torch's own here, and pruned as any others",
    "SpikingJelly inference_on_lynxi": "a compiler that only its customers have",
    "norse edge_detector": "a filter by hand, of which nothing is learned",
    "norse stochastic-computing": "arithmetic with rates, of which nothing is learned",
    "norse stp_example": "there are no synapses of short-term plasticity",
}
"""Tutorials of which there is no page, and why."""

# name of the peer's page: our page (the number of a tutorial, or a file of docs) and words that it must have
SNNTORCH = """
    tutorial_1                      02  encode.poisson, latency, delta
    tutorial_2                      01  Leaky, threshold
    tutorial_3                      03  MNIST, surrogate
    tutorial_4                      01  Synaptic, second order
    tutorial_5                      03  surrogate, slope
    tutorial_6                      04  Conv2d, accuracy
    tutorial_7                      05  n-mnist, to_frames, tonic
    pop                             02  population
    regression_1                    06  Recurrent, RLeaky
    regression_2                    07
    sae                             07
    exoplanet_hunter                07
    stmnist                         05  st-mnist
    DAVIS_Direction                 05  event camera, classify
    ssc                             data.md  ssc, Frames
    spiking_heidelberg_digits       data.md  shd
    TBPTT                           06  sl.detach, online
    forward_forward                 09  forward-forward, goodness
    surrogate_and_sparsity          03  surrogate
    snnmetrics                      04  rate
    stateleaky_filters              06  PSN, StateLeaky
    snntorch_linearleaky            06  PSN, LinearLeaky
    BSNN                            12
    delta_SNNs                      12
    snntorch_to_nir                 12
"""
SPIKINGJELLY = """
    install                         ../README.md  pip install
    migrate_from_legacy             porting.md  reset_net
    basic_concept                   01  state
    neuron                          01  LIFNode, reset
    surrogate                       03  surrogate.ATan
    lif_fc_mnist                    03  MNIST, encode.poisson
    timing_based                    02  latency, phase
    conv_fashion_mnist              04  fashion-mnist, Conv2d
    container                       04  SeqToANNContainer
    monitor                         04  OutputMonitor, record
    neuromorphic_datasets           05  frames_number, split_by
    classify_dvsg                   05  DVS128Gesture, augment
    recurrent_connection_and_stateful_synapse  06  Recurrent, SynapseFilter
    stdp                            09  STDPLearner, MSTDPET
    ann2snn                         10  Converter, quantile
    ann2snn_transformer             10  layer norm, scaled_dot_product_attention
    custom_snn_tutorial             08
    cupy_neuron                     08
    triton_backend                  08
    flexsn                          08
    flexsn_inductor                 08
    triton_flexsn                   08
    memopt                          11
    distributed_training            11
    train_large_scale_snn           11
    spikformer                      11
    precision                       11
    op_counter                      12
    nir_exchange                    12
    lava_exchange                   12
    dsqn                            reinforcement.md  DQN
    ilc_san                         reinforcement.md  ILC
"""
SNNGROW = """
    neuron                          01  threshold
    surrogate_gradient              03  surrogate
    spiking_computation_mode        11
    stdp_learning                   09  SNNGrow, STDPLearner
    sparse_structure                11
"""
SNETX = """
    dataset.vision                  data.md  cifar100, fashion-mnist
    dataset.ddp.vision              11
    models.svggnet                  11
    neuron.LIF                      01  LIF
    algorithm.Tosnn                 porting.md  Tosnn
    algorithm.TETLoss               04  tet
    algorithm.DirectEncoder         porting.md  DirectEncoder
    algorithm.EvolvedAlpha          03  EvolvedAlpha
    cuend.neuron.LIF                08
"""
NORSE = """
    spiking                         01  LIFBoxCell
    intro_spikes                    01  spike
    single-neuron-experiments       01  current
    intro_plotting                  04  plot
    encoding                        02  encode.poisson
    mnist_classifiers               03  MNIST
    parameters                      06  nn.Parameter, tau
    parameter-learning              06  learned
    learning                        03  surrogate
    poker-dvs_classifier            05  confusion
    tasks                           reproductions.md  spikeloom train
    high-performance-computing      11
    quantization                    12
"""
PEERS = {"snnTorch": SNNTORCH, "SpikingJelly": SPIKINGJELLY, "SNNGrow": SNNGROW, "snetx": SNETX, "norse": NORSE}


def rows(peer):
    """Name, page and words of each of its tutorials."""
    for row in PEERS[peer].strip().split("\n"):
        name, page, *words = row.split(maxsplit=2)
        yield name, page, words[0].split(", ") if words else []


def place(page):
    """The file of a page, or None if there is none."""
    found = sorted((DOCS / "tutorials").glob(f"{page}-*.md")) if page.isdigit() else [DOCS / page]
    assert len(found) <= 1
    return found[0] if found and found[0].exists() else None


@pytest.mark.parametrize("peer", PEERS)
def test_every_tutorial_of_a_peer_has_its_page(peer):
    for name, page, words in rows(peer):
        file = place(page)
        if file is None:
            assert page in TO_COME, f"{peer}'s {name}: there is no page {page}"
            continue
        text = file.read_text().lower()
        assert words, f"{peer}'s {name}: {file.name} is there; name the words by which one sees that it has it"
        missing = [word for word in words if word.lower() not in text]
        assert not missing, f"{peer}'s {name}: {file.name} has no {missing}"


def test_no_tutorial_of_a_peer_is_forgotten():
    """The numbers are those of the peers' repositories in November 2026, without indices, translations and old ones."""
    names = {peer: [name for name, _, _ in rows(peer)] for peer in PEERS}
    assert all(len(set(found)) == len(found) for found in names.values())
    left_out = Counter(name.split()[0] for name in LEFT_OUT)
    counted = {peer: len(found) + left_out[peer] for peer, found in names.items()}
    assert counted == {"snnTorch": 28, "SpikingJelly": 33, "SNNGrow": 5, "snetx": 9, "norse": 16}


def test_every_step_of_the_ladder_is_there_or_to_come():
    there = {file.name[:2] for file in (DOCS / "tutorials").glob("[0-9][0-9]-*.md")}
    to_come = {page for page in TO_COME if page.isdigit()}
    assert there | to_come == {f"{n:02}" for n in range(1, 13)}
    assert not there & to_come, "a page that is there is no longer to come"
    assert there <= {page for peer in PEERS for _, page, _ in rows(peer)}
