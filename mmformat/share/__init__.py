"""Share inputs with every rank: the public arena, which joins codec, transport and placement."""

from mmformat.share.arena import Arena
from mmformat.share.decoding import decode
from mmformat.share.pending import PendingInputs
from mmformat.share.rank import ArenaReader
from mmformat.share.reservation import Reservation

__all__ = ["Arena", "ArenaReader", "PendingInputs", "Reservation", "decode"]
