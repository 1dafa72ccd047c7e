"""Keeps the bytecode of what is imported from zips, on the hosts of the lab.

Each task of Ansible comes to its host as a zip of sources, which are compiled anew: half of the processor time that a
task takes. What is compiled, and how it runs, is the same. compiled_once.pth puts it into force for the distribution's
own Python alone: no virtual environment sees it.
"""

import marshal
import os
import sys
import zipimport
from _imp import source_hash

FOLDER = "/var/cache/compiled-once"


def _compiled(pathname, source):
    """The code of a module of a zip; `pathname` has the zip's in it, which is another for each task."""
    key = source_hash(0, source + pathname.rpartition(".zip")[2].encode()).hex()
    place = f"{FOLDER}/{sys.implementation.cache_tag}-{key}"
    try:
        with open(place, "rb") as file:
            return marshal.load(file)
    except OSError:
        code = compile(source.replace(b"\r\n", b"\n"), pathname, "exec", dont_inherit=True)
    with open(f"{place}.{os.getpid()}-{os.uname().nodename}", "wb") as file:
        marshal.dump(code, file)
    os.replace(file.name, place)
    return code


zipimport._compile_source = _compiled
