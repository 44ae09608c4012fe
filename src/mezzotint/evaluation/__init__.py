"""Evaluation of frozen features: probes, low bits, baselines, and the files of results."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.evaluation.attentive import Attentive as Attentive
    from mezzotint.evaluation.bits import evaluate_bits as evaluate_bits
    from mezzotint.evaluation.evar import EVAR as EVAR
    from mezzotint.evaluation.evar import byol_a_linear as byol_a_linear
    from mezzotint.evaluation.features import Reading as Reading
    from mezzotint.evaluation.knn import KNN as KNN
    from mezzotint.evaluation.knn import KNNGrid as KNNGrid
    from mezzotint.evaluation.label_free import Rank as Rank
    from mezzotint.evaluation.linear import Linear as Linear
    from mezzotint.evaluation.measurement import Measurement as Measurement
    from mezzotint.evaluation.probe import Probe as Probe
    from mezzotint.evaluation.probe import Row as Row
    from mezzotint.evaluation.protocol import PTQ as PTQ
    from mezzotint.evaluation.protocol import Protocol as Protocol
    from mezzotint.evaluation.results import Baselines as Baselines
    from mezzotint.evaluation.results import Evaluation as Evaluation
    from mezzotint.evaluation.results import interval as interval
    from mezzotint.evaluation.results import read_evaluation as read_evaluation
    from mezzotint.evaluation.results import write_evaluation as write_evaluation
    from mezzotint.evaluation.retrieval import Retrieval as Retrieval
    from mezzotint.evaluation.sgd_linear import SGDLinear as SGDLinear
    from mezzotint.evaluation.sgd_linear import airl_large_norm as airl_large_norm
    from mezzotint.evaluation.sgd_linear import airl_sgd as airl_sgd
    from mezzotint.evaluation.sgd_linear import convex as convex
    from mezzotint.evaluation.sgd_linear import mocov3 as mocov3
    from mezzotint.evaluation.sgd_linear import solo_learn as solo_learn
    from mezzotint.evaluation.sgd_linear import ssql as ssql
    from mezzotint.evaluation.suite import evaluate_encoder as evaluate_encoder

__getattr__, __dir__ = lazy_names(__name__, __file__)
