"""Transductive few-shot methods to compare with, on fixed features, vectorised over tasks.

A method is an object of a dataclass whose fields are its hyperparameters, called as
`probs = method(support_x, support_y, query_x, n_way)`. `make(name, setting, ...)` makes one with published or chosen
hyperparameters.
"""

from peers.alpha_tim import AlphaTIM
from peers.base import Peer
from peers.bavardage import BAVARDAGE, base_statistics
from peers.bdcspn import BDCSPN
from peers.laplacianshot import LaplacianShot
from peers.prototypes import Prototypes
from peers.ptmap import PTMAP
from peers.registry import CHOSEN, METHODS, make
from peers.sib import SIB
from peers.simpleshot import SimpleShot
from peers.tim import TIM

__all__ = [
    "BAVARDAGE",
    "BDCSPN",
    "CHOSEN",
    "METHODS",
    "PTMAP",
    "SIB",
    "TIM",
    "AlphaTIM",
    "LaplacianShot",
    "Peer",
    "Prototypes",
    "SimpleShot",
    "base_statistics",
    "make",
]
