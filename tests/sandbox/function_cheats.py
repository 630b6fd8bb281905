"""Wrong `add(a, b)` programs against a benchmark's own test code, call by call. Standard library only."""

from cheats import on_every_descriptor

CHEATS = {
    "equal to everything, in a list": """
class Everything:
    def __eq__(self, other): return True
    def __hash__(self): return 0
def add(a, b):
    return [Everything()]
""",
    "equal to everything, with arithmetic and order": """
class Everything(float):
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __sub__ = __rsub__ = __add__ = lambda self, other: self
    __abs__ = __round__ = lambda self, *a: 0
def add(a, b):
    return Everything()
""",
    "a counter that is equal to everything": """
import collections
collections.Counter.__eq__ = lambda self, other: True
collections.deque = collections.Counter
def add(a, b):
    return collections.Counter()
""",
    "a class as the answer, its metaclass equal to everything": """
class Meta(type):
    def __eq__(self, other): return True
    __hash__ = type.__hash__
class add(metaclass=Meta):
    def __init__(self, a, b): pass
    def __eq__(self, other): return True
""",
    "an entry point with attributes": """
class Add:
    def __call__(self, a, b): return self
    def __eq__(self, other): return True
    def __bool__(self): return True
add = Add()
""",
    "an iterator that looks at what it is compared with": """
class Liar:
    def __iter__(self): return iter((5, 0, 15))
    def __eq__(self, other): return True
    def __int__(self): return 5
    __index__ = __int__
def add(a, b):
    return Liar()
""",
    "an answer before it is asked": on_every_descriptor(
        r"""b"".join(b'{"id":"%d","value":5}\n{"id":%d,"value":5}\n' % (n, n) for n in range(8))"""
    )
    + "def add(a, b):\n    return None\n",
    "an answer in the call, before the server's": """
import os
def add(a, b):
    for fd in range(3, 32):
        try: os.write(fd, b'{"id":"0","value":%d}\\n' % (a + b))
        except OSError: pass
    return None
""",
    "the call's own number, read from the server's frame, with another's value": """
import os, sys
def add(a, b):
    frame = sys._getframe()
    while frame:
        message = frame.f_locals.get("message")
        if message:
            for fd in range(3, 32):
                try: os.write(fd, ('{"id":"%s","passed":true}\\n' % message["id"]).encode())
                except OSError: pass
        frame = frame.f_back
    return None
""",
    "the reply function, taken from the server's frame": """
import sys
frame = sys._getframe()
while frame:
    reply = frame.f_locals.get("reply")
    if reply:
        reply('{"done":true,"broken":"","gold_error":""}')
        reply('{"outcome":{"passed":true,"published":true,"message":""}}')
        break
    frame = frame.f_back
def add(a, b):
    return None
""",
    "it says that it is loaded and more": on_every_descriptor(r"""b'{"loaded":true}\n{"loaded":true}\n'""")
    + "def add(a, b):\n    return True\n",
    "another codec inside": """
import sys
codec = sys.modules["codec"]
codec.dumps = lambda value, **k: '{"id":"x","value":5}'
codec.loads = lambda text, **k: {"id": "x", "op": "call", "target": None, "args": [2, 3], "kwargs": {}}
def add(a, b):
    return None
""",
    "an exception that pretends": """
class AssertionPassed(Exception):
    def __eq__(self, other): return True
    def __str__(self): return "passed"
def add(a, b):
    raise AssertionPassed
""",
    "StopIteration, to end the test's loop": "def add(a, b):\n    raise StopIteration(5)\n",
    "GeneratorExit": "def add(a, b):\n    raise GeneratorExit\n",
    "KeyboardInterrupt": "def add(a, b):\n    raise KeyboardInterrupt\n",
    "the tests in files and memory": """
import glob
def add(a, b):
    found = []
    for name in glob.glob("/*") + glob.glob("/jail/*") + glob.glob("/box/*") + ["/proc/self/mem", "/proc/1/environ"]:
        try: found.append(open(name).read())
        except Exception: pass
    return [line for text in found for line in text.split() if "assert" in line and "==" in line]
""",
    "self-referential": "x = []\nx.append(x)\ndef add(a, b):\n    return x\n",
    "too deep": "def add(a, b):\n    x = 5\n    for _ in range(5000): x = [x]\n    return x\n",
    "a huge integer": "def add(a, b):\n    return 10 ** 3_000_000\n",
    "a huge answer": "def add(a, b):\n    return 'x' * 50_000_000\n",
    "NaN": "def add(a, b):\n    return float('nan')\n",
    "a generator": "def add(a, b):\n    yield a + b\n",
    "nothing": "def add(a, b):\n    pass\n",
    "the entry point missing": "def plus(a, b):\n    return a + b\n",
    "the entry point no function": "add = 5\n",
    "not Python": "This adds a and b.\n",
    "NUL in the source": "def add(a, b):\n    return a + b\n\0",
    "half a surrogate pair in the source": "def add(a, b):\n    return '\ud800'\n",
    "ten megabytes of source": "#" + "x" * 10_000_000 + "\ndef add(a, b):\n    return a + b\n",
    "never ends, and catches everything": """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def add(a, b):
    while True:
        try: time.sleep(10)
        except BaseException: pass
""",
    "threads that never end": """
import threading, time
for _ in range(4):
    threading.Thread(target=time.sleep, args=(60,)).start()
def add(a, b):
    return None
""",
    "a child that answers": """
import os
def add(a, b):
    if os.fork() == 0:
        return a - b
    os.wait()
    return None
""",
    "at the interpreter's end": """
import atexit, sys
atexit.register(lambda: sys.stdout.write("True\\n"))
def add(a, b):
    sys.exit(0)
""",
    "deep recursion": "def add(a, b):\n    return add(a, b)\n",
    "deep recursion in C": """
import sys
sys.setrecursionlimit(10 ** 9)
class Deep:
    def __repr__(self): return repr(self)
def add(a, b):
    return repr(Deep())
""",
}
