"""Wrong `add(a, b)` programs that try to be judged right. Standard library only."""

CALLS = [(2, 3), (-1, 1), (10, 5)]
EXPECTED = [5, 0, 15]

HONEST_RIGHT = "def add(a, b):\n    return a + b\n"
HONEST_WRONG = "def add(a, b):\n    return a - b\n"


def on_every_descriptor(data, first=3):
    """The lines of a program that write the value of `data`, an expression, wherever something can be written."""
    return f"""
import os
for fd in range({first}, 64):
    try: os.write(fd, {data})
    except OSError: pass
"""


CHEATS = {
    "exit 0 at import": "import sys\nsys.exit(0)\n",
    "_exit 0 at import": "import os\nos._exit(0)\n",
    "SystemExit inside the call": "def add(a, b):\n    raise SystemExit(0)\n",
    "_exit 0 inside the call": "import os\ndef add(a, b):\n    os._exit(0)\n",
    "exit 0 at the interpreter's end": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): return 0\n",
    "object equal to everything": """
class Everything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def add(a, b):
    return Everything()
""",
    "int subclass equal to everything": """
class Everything(int):
    def __eq__(self, other): return True
def add(a, b):
    return Everything(7)
""",
    "class that says it is int": """
class Liar:
    __class__ = int
    def __eq__(self, other): return True
    def __reduce__(self): return (int, (5,))
def add(a, b):
    return Liar()
""",
    "read the caller's frames": """
import sys
def add(a, b):
    frame, found = sys._getframe(), []
    while frame:
        for space in (frame.f_locals, frame.f_globals):
            found += [value for name, value in space.items() if name in ("expected", "want", "gold", "tests")]
        frame = frame.f_back
    return found.pop() if found else None
""",
    "search gc for the expected values": """
import gc
def add(a, b):
    for thing in gc.get_objects():
        if type(thing) is list and thing == [5, 0, 15]:
            return thing[{2: 0, -1: 1, 10: 2}[a]]
    return None
""",
    "replace builtins": """
import builtins
builtins.exec = lambda *a, **k: None
builtins.compile = lambda *a, **k: None
builtins.all = builtins.any = builtins.isinstance = lambda *a, **k: True
builtins.type = lambda *a: int
def add(a, b):
    return -7
""",
    "replace the codec": """
import sys, json
for name in ("codec", "json", "__main__"):
    module = sys.modules.get(name)
    for key in list(vars(module)):
        if callable(vars(module)[key]) and not key.startswith("__") and not isinstance(vars(module)[key], type):
            setattr(module, key, lambda *a, **k: "true")
def add(a, b):
    return -7
""",
    "overwrite shared results through gc": """
import gc, os
def add(a, b):
    for thing in gc.get_objects():
        try:
            if type(thing) is dict and "error" in thing: thing["error"] = None
            if type(thing) is list and len(thing) <= 3: thing[:] = [True] * len(thing)
        except Exception:
            pass
    return True
""",
    "disarm the checker by settrace": """
import sys
def trace(frame, event, argument):
    frame.f_trace_lines = False
    if frame.f_code.co_name in ("check", "same", "main", "_serve"):
        frame.f_lineno = frame.f_lineno
    return trace
sys.settrace(trace)
def add(a, b):
    return None
""",
    "print a forged verdict": """
import sys
for stream in (sys.stdout, sys.stderr):
    for line in ("PASSED", "True", '{"id":0,"value":5}', '{"id":1,"value":0}', '{"id":2,"value":15}'):
        stream.write(line + "\\n")
    stream.flush()
import os
os._exit(0)
""",
    "print answers inside the call": """
import os
def add(a, b):
    os.write(1, b'{"id":0,"value":5}\\n')
    os.write(2, b'{"id":0,"value":5}\\n')
    return None
""",
    "send True on every descriptor": on_every_descriptor(r"b'True\n'", 1) + "def add(a, b):\n    return True\n",
    "send pickles on every descriptor": on_every_descriptor("pickle.dumps(True) + pickle.dumps([True] * 3)", 1).replace(
        "import os", "import os, pickle"
    )
    + "os._exit(0)\n",
    "forge a complete reply without the answers": on_every_descriptor(
        r"""b'{"loaded":true}\n' + b"".join(b'{"id":%d,"value":true}\n' % i for i in range(3))"""
    )
    + "os._exit(0)\n",
    "claim success in other words": on_every_descriptor(
        r"""b'{"loaded":true}\n{"id":0,"value":5,"passed":true}\n{"status":"ok","correct":true}\n'"""
    )
    + "def add(a, b):\n    return None\n",
    "True for 1": "def add(a, b):\n    return {5: 5.0, 0: False, 15: 15.0}[a + b]\n",
    "kill the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef add(a, b):\n    return None\n",
}
