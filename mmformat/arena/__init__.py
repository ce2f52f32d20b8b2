"""Share inputs with every rank: the public arena, which joins codec, transport and placement."""

from mmformat.arena.arena import Arena
from mmformat.arena.arena_reader import ArenaReader
from mmformat.arena.reservation import Reservation
from mmformat.cuda.decode import decode
from mmformat.cuda.pending_inputs import PendingInputs

__all__ = ["Arena", "ArenaReader", "PendingInputs", "Reservation", "decode"]
