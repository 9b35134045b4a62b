"""Forged passes and hostile results: programs that claim an answer, or hurt who reads it.

None is right; none may be paid, or cost the grader more than a wrong answer does.
"""

from collections.abc import Iterator

from tests.rewards.sandbox.attacks import CALLS, DOUBLE, KILLED, Row, row, says

# Programs that claim a pass without earning it. `f` should double; scripts should print 42.
FORGED = {
    "exit in the call": ("def f(x): raise SystemExit(0)", CALLS),
    "exit at the top": ("import sys\nsys.exit(0)\ndef f(x): pass", CALLS),
    "hard exit at the top": ("import os\nos._exit(0)", CALLS),
    "hard exit at the end": (
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
        CALLS,
    ),
    "hard exit, stdio": ("import os\nos._exit(0)", DOUBLE),
    "exit by exec": ("import os\nos.execv('/bin/true', ['true'])\n", DOUBLE),
    "equal to everything": (
        "class E:\n    def __eq__(self, o): return True\n    __hash__ = None\ndef f(x): return E()",
        CALLS,
    ),
    "int equal to everything": (
        "class E(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\n"
        "def f(x): return E(0)",
        CALLS,
    ),
    "float equal to everything": (
        "class E(float):\n    def __eq__(self, o): return True\n"
        "    def __sub__(self, o): return 0.0\n    __hash__ = float.__hash__\n"
        "def f(x): return E(0)",
        CALLS,
    ),
    "equal by metaclass": (
        "class M(type):\n    def __eq__(self, o): return True\n    __hash__ = type.__hash__\n"
        "class E(metaclass=M): pass\ndef f(x): return E",
        CALLS,
    ),
    "type that calls itself int": (
        "class E:\n    __class__ = int\n    def __eq__(self, o): return True\ndef f(x): return E()",
        CALLS,
    ),
    "bool for a number": (
        "def f(x): return x == 2",
        {"type": "function", "entry": "f", "cases": [{"args": [2], "expected": 1}]},
    ),
    "answers written ahead": (
        "import os\nfor n in range(64):\n    try: os.write(n, b'[\"value\", true]\\n' * 9)\n"
        "    except OSError: pass\ndef f(x): return 0",
        CALLS,
    ),
    "verdicts on every descriptor": (
        "import os, json\nv = json.dumps({'verdict': 'pass', 'passed': True, 'score': 1.0})\n"
        "for n in range(64):\n    try: os.write(n, v.encode())\n    except OSError: pass\n"
        "os._exit(0)",
        CALLS,
    ),
    "verdict on stdout": (
        "print('PASS'); print('all 1 cases pass'); print('{\"passed\": true}')",
        DOUBLE,
    ),
    "pytest report": (
        "print('=' * 20, '3 passed in 0.01s', '=' * 20)\nraise SystemExit(0)",
        DOUBLE,
    ),
    "poisoned comparison": (
        "import builtins, operator\nbuiltins.all = builtins.any = lambda *a: True\n"
        "operator.eq = lambda a, b: True\ndef f(x): return 0",
        CALLS,
    ),
    "poisoned type": (
        "import builtins\nbuiltins.type = lambda *a: int\ndef f(x): return None",
        CALLS,
    ),
    "poisoned codec": (
        "import gc\nfor o in gc.get_objects():\n"
        "    if isinstance(o, dict) and 'MAX_NODES' in o:\n"
        "        o['encode'] = lambda v: True\n"
        "        o['dumps'] = lambda v: b'[\"value\", true]'\n"
        "def f(x): return 0",
        CALLS,
    ),
    "poisoned writes": ("import os\nos.write = lambda d, b: len(b)\ndef f(x): return 2 * x", CALLS),
    "poisoned streams": (
        "import sys\nclass S:\n    def write(self, t): return 0\n"
        "    flush = close = int\n"
        "sys.stdout = S()\nprint(42)",
        DOUBLE,
    ),
    "shadowed modules": (
        "for n in ('json', 'pytest', 'conftest', 'sitecustomize', 'rewards', 'unittest'):\n"
        "    open(n + '.py', 'w').write('dumps = loads = lambda *a: 1')\n"
        "import sys\nsys.path.insert(0, '.')\ndef f(x): return 0",
        CALLS,
    ),
    "tracing": (
        "import sys\ndef t(fr, ev, arg):\n    for k in fr.f_locals: fr.f_locals[k] = 4\n"
        "    return t\n"
        "sys.setprofile(t)\nsys.settrace(t)\ndef f(x): return 0",
        CALLS,
    ),
    "globals of the callers": (
        "import sys\ndef f(x):\n    g = sys._getframe()\n    while g:\n"
        "        for k, v in {**g.f_globals, **g.f_locals}.items():\n"
        "            if k.lower() in ('expected', 'want', 'cases', 'answer', 'tests'): return v\n"
        "        g = g.f_back\n    return 0",
        CALLS,
    ),
    "expected value in memory": (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        if isinstance(o, (dict, list, tuple)):\n"
        "            for v in (o.values() if isinstance(o, dict) else o):\n"
        "                if type(v) is str and v[:4] == 'zq77': return v\n    return ''",
        {
            "type": "function",
            "entry": "f",
            "cases": [{"args": [1], "expected": "zq77-kept-outside"}],
        },
    ),
    "small ints rewritten": (
        "import ctypes\ndef f(x):\n    ctypes.c_int.from_address(id(0) + 24).value = 4\n"
        "    return 0",
        CALLS,
    ),
    "changed argument": (
        "def f(a):\n    a[:] = [1, 2, 3]",
        {"type": "function", "entry": "f", "cases": [{"args": [[3, 1, 2]], "expected": [1, 2, 3]}]},
    ),
    "state across cases": (
        "n = 0\ndef f(x):\n    global n\n    n += 1\n    return 4 if n == 1 else None",
        CALLS,
    ),
    "state across runs": (
        "import os, tempfile\np = os.path.join(tempfile.gettempdir(), 'n')\n"
        "n = os.path.exists(p)\n"
        "open(p, 'w').write('x')\nprint(42 if n else 0)",
        {
            "type": "stdio",
            "cases": [{"input": "", "output": "0"}] * 4 + [{"input": "", "output": "42"}],
        },
    ),
    "function that is no function": ("f = 4", CALLS),
    "another name": ("def g(x): return 2 * x", CALLS),
    "callable by attribute": (
        "class F:\n    def __call__(self, x): return self\n"
        "    def __eq__(self, o): return True\nf = F()",
        CALLS,
    ),
    "coroutine": ("async def f(x): return 2 * x", CALLS),
    "carriage return": ("print('41\\r42', end='')", says("42\n")),
    "erased line": ("print('41\\x1b[2K\\x1b[1G42')", DOUBLE),
    "all answers at once": ("for n in range(100): print(n)", DOUBLE),
    "nul padding": ("print('42\\0')", DOUBLE),
    "another script's digits": ("print('\u0664\u0662')", DOUBLE),
}

ASSERTS = {
    "type": "asserts",
    "entry": "f",
    "code": "import math\nassert f(2) == 4\nassert math.isclose(f(2.5), 5) and f(x=-3) == -6\n",
}
ASSERTED = {
    "exit in an asserted call": "def f(x): raise SystemExit(0)",
    "hard exit in an asserted call": "import os\ndef f(x): os._exit(0)",
    "interrupt in an asserted call": "def f(x): raise KeyboardInterrupt",
    "assertions that cannot fail": (
        "import builtins\nclass A(BaseException):\n    def __init__(self, *a): pass\n"
        "builtins.AssertionError = A\ndef f(x): return 0"
    ),
    "an answer that asserts itself": (
        "class E:\n    def __eq__(self, o): return True\n    def __float__(self): return 5.0\n"
        "    def __bool__(self): return True\ndef f(x): return E()"
    ),
    "a check of its own": "def check(*a): return True\ntest = check\ndef f(x): return 0",
    "another math": (
        "import math, sys\nmath.isclose = lambda *a: True\nsys.modules['math'] = math\n"
        "open('math.py', 'w').write('isclose = lambda *a: 1')\ndef f(x): return 4"
    ),
    "verdicts beside the answers": (
        "import os\ndef f(x):\n    for n in range(64):\n"
        '        try: os.write(n, b\'["passed", true]\\n["value", true]\\npass\\n\')\n'
        "        except OSError: pass\n    return 0"
    ),
    "the checker's own text": (
        "import sys\ndef f(x):\n    g = sys._getframe()\n    while g.f_back: g = g.f_back\n"
        "    return eval(str(g.f_globals.get('code', '0')))"
    ),
}

# Results meant to hurt the grader.
RESULTS = {
    "endless generator": "def f(x):\n    while 1: yield x",
    "endless sequence": (
        "class L(list):\n    def __iter__(self): return iter(int, 1)\ndef f(x): return L()"
    ),
    "huge list": "def f(x): return [0] * 10 ** 7",
    "huge text": "def f(x): return 'x' * (8 << 20)",
    "huge int": "def f(x): return 1 << (1 << 22)",
    "int of many digits": "def f(x): return 10 ** 5000",
    "deep list": "def f(x):\n    r = []\n    for _ in range(10 ** 5): r = [r]\n    return r",
    "deep dictionary": (
        "def f(x):\n    r = {}\n    for _ in range(10 ** 4): r = {'k': r}\n    return r"
    ),
    "cyclic list": "def f(x):\n    r = []\n    r.append(r)\n    return r",
    "cyclic dictionary": "def f(x):\n    r = {}\n    r[0] = r\n    return r",
    "wide by sharing": "def f(x):\n    r = [0]\n    for _ in range(40): r = [r, r]\n    return r",
    "not a number": "def f(x): return float('nan')",
    "infinity": "def f(x): return float('inf')",
    "colliding keys": "def f(x): return {n * (2 ** 61 - 1): 0 for n in range(20000)}",
    "pickle": (
        "class P:\n    def __reduce__(self): return (open, ('/tmp/sbx_pwn', 'w'))\n"
        "def f(x): return P()"
    ),
    "repr bomb": "class R:\n    def __repr__(self): return 'x' * (1 << 28)\ndef f(x): return R()",
    "name bomb": "def f(x): return type('x' * (1 << 24), (), {})()",
    "exception bomb": "def f(x): raise ValueError('x' * (1 << 26))",
    "exception group": "def f(x): raise BaseExceptionGroup('x', [KeyboardInterrupt()] * 9)",
    "lone surrogate": "def f(x): return '\\ud800'",
    "raw JSON": "import os\ndef f(x):\n    os.write(3, b'[' * 200000)\n    return x",
    "raw bytes": "import os\ndef f(x):\n    os.write(3, bytes(range(256)) * 99)\n    return x",
    "wrong wire forms": (
        "import os\ndef f(x):\n"
        '    os.write(3, b\'["value",["int","zz"]]\\n["value",["dict",[[1]]]]\\n[[],{}]\\n\')\n'
        "    return x"
    ),
    "reply pipe closed": "import os\ndef f(x):\n    os.close(3)\n    return 2 * x",
}


def rows() -> Iterator[Row]:
    for name, (source, tests) in FORGED.items():
        yield row(name, source, tests, ("fail", *KILLED))
    for name, source in ASSERTED.items():
        yield row(name, source, ASSERTS, ("fail", *KILLED))
    yield row("asserted and right", "def f(x): return 2 * x", ASSERTS, ("pass",))
    for name, source in RESULTS.items():
        yield row(name, source, CALLS, ("fail", *KILLED), costly=name == "colliding keys")
