"""Share inputs with every rank: the public arena, which joins codec and transport."""

from mmformat.share.arena import Arena
from mmformat.share.rank import ArenaReader
from mmformat.share.reservation import Reservation

__all__ = ["Arena", "ArenaReader", "Reservation"]
