"""All mutants, in the order in which the protocol meets what they break."""

from __future__ import annotations

from tests.mutants.mutant import Mutant
from tests.mutants.of_copy import COPY
from tests.mutants.of_nas import NAS
from tests.mutants.of_object_names import OBJECT_NAMES
from tests.mutants.of_object_stores import OBJECT_STORES
from tests.mutants.of_oss import OSS
from tests.mutants.of_pushes import PUSHES
from tests.mutants.of_the_collector import COLLECTOR
from tests.mutants.of_the_daemon import DAEMON
from tests.mutants.of_the_disk import DISK
from tests.mutants.of_the_journal import JOURNAL

ENGINE: tuple[Mutant, ...] = (
    *DISK,
    *PUSHES,
    *COLLECTOR,
    *JOURNAL,
    *OBJECT_NAMES,
    *COPY,
    *OBJECT_STORES,
    *OSS,
    *NAS,
)
MUTANTS = (*ENGINE, *DAEMON)
