"""Transductive few-shot methods to compare with, on fixed features, vectorised over tasks.

A method is an object of a dataclass whose fields are its hyperparameters, called as
`probs = method(support_x, support_y, query_x, n_way)`. `make(name, setting, ...)` makes one with published or chosen
hyperparameters.
"""

from lib.peers.alpha_tim import AlphaTIM
from lib.peers.base import Peer, guesses
from lib.peers.bavardage import BAVARDAGE, base_statistics
from lib.peers.bdcspn import BDCSPN
from lib.peers.laplacianshot import LaplacianShot
from lib.peers.prototypes import Prototypes
from lib.peers.ptmap import PTMAP
from lib.peers.registry import CHOSEN, METHODS, make
from lib.peers.sib import SIB
from lib.peers.simpleshot import SimpleShot
from lib.peers.tim import TIM
from lib.peers.trained import TrainedPeer
from lib.peers.unem import UNEM

__all__ = [
    "BAVARDAGE",
    "BDCSPN",
    "CHOSEN",
    "METHODS",
    "PTMAP",
    "SIB",
    "TIM",
    "UNEM",
    "AlphaTIM",
    "LaplacianShot",
    "Peer",
    "Prototypes",
    "SimpleShot",
    "TrainedPeer",
    "base_statistics",
    "guesses",
    "make",
]
