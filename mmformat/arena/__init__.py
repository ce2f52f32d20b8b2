"""Share inputs with every rank: the public arena, which joins codec, transport and placement."""

from mmformat.arena.arena import Arena
from mmformat.cuda.decode import decode
from mmformat.cuda.pending_inputs import PendingInputs
from mmformat.arena.arena_reader import ArenaReader
from mmformat.arena.reservation import Reservation

__all__ = ["Arena", "ArenaReader", "PendingInputs", "Reservation", "decode"]
