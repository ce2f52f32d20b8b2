"""Byte streams that attack whoever reads a pickle: published bypasses, bombs, lies and cuts."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mmformat as mm

UNSAFE = mm.UnsafePickleError
DECODE = mm.DecodeError
TRUNCATED = mm.TruncatedError
LIMIT = mm.LimitError
CANARY = "/tmp/mmformat-attack-canary"


@dataclass(frozen=True)
class Attack:
    """One stream, where it was published or what it abuses, and how it must end."""

    name: str
    source: str
    data: bytes
    error: type[mm.MMFormatError]
    limits: tuple[tuple[str, int], ...] = ()


def text(value: str) -> bytes:
    """Return SHORT_BINUNICODE or BINUNICODE."""
    data = value.encode("utf-8", "surrogatepass")
    if len(data) < 256:
        return b"\x8c" + bytes([len(data)]) + data
    return b"X" + struct.pack("<I", len(data)) + data


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def value(item: Any) -> bytes:
    """Return the opcodes of a plain value, without PROTO and STOP."""
    return pickle.dumps(item, 2)[2:-1]


def call(module: str, name: str, *arguments: Any) -> bytes:
    """Return a whole pickle that calls a function, for STACK_GLOBAL and REDUCE."""
    return b"\x80\x04" + stack_global(module, name) + value(tuple(arguments)) + b"R."


# (module, name, arguments, where it was published or used).
CALLS: list[tuple[str, str, tuple[Any, ...], str]] = [
    ("os", "system", (f"touch {CANARY}",), "the classic"),
    ("posix", "system", (f"touch {CANARY}",), "what os.system pickles as"),
    ("nt", "system", ("calc",), "the same on Windows"),
    ("os", "popen", ("id",), "classic"),
    ("os", "execv", ("/bin/sh", ["sh"]), "classic"),
    ("os", "spawnl", (0, "/bin/sh"), "classic"),
    ("os", "posix_spawn", ("/bin/sh", [], {}), "classic"),
    ("os", "remove", ("/tmp/x",), "no code, still harm"),
    ("os", "putenv", ("LD_PRELOAD", "/tmp/x.so"), "environment"),
    ("subprocess", "Popen", (["touch", CANARY],), "classic"),
    ("subprocess", "check_output", (["id"],), "classic"),
    ("subprocess", "run", (["id"],), "classic"),
    ("builtins", "eval", ("1",), "classic"),
    ("builtins", "exec", (f"open({CANARY!r},'w')",), "classic"),
    ("builtins", "compile", ("1", "x", "eval"), "classic"),
    ("builtins", "open", (CANARY, "w"), "classic"),
    ("builtins", "__import__", ("os",), "classic"),
    ("builtins", "getattr", (1, "real"), "CVE-2026-15969: SGLang's SafeUnpickler allowed builtins"),
    ("builtins", "setattr", (1, "x", 2), "CVE-2026-15969"),
    ("builtins", "globals", (), "CVE-2026-15969"),
    ("builtins", "vars", (), "CVE-2026-15969"),
    ("builtins", "breakpoint", (), "picklescan GHSA"),
    ("builtins", "help", (), "picklescan GHSA"),
    ("builtins", "type", ("X", (), {}), "class creation"),
    ("builtins", "map", (1, 2), "lazy call"),
    ("builtins", "print", ("x",), "output"),
    ("builtins", "bytes.fromhex", ("00",), "dotted attribute"),
    ("__builtin__", "eval", ("1",), "Python 2 name, mapped by fix_imports"),
    ("__builtin__", "getattr", (1, "x"), "Python 2 name"),
    ("__builtin__", "execfile", ("/tmp/x",), "Python 2 name"),
    ("__main__", "__builtins__", (), "module attribute"),
    ("importlib", "import_module", ("os",), "classic"),
    ("importlib", "__import__", ("os",), "classic"),
    ("importlib._bootstrap", "_gcd_import", ("os",), "classic"),
    ("importlib.machinery", "SourceFileLoader", ("x", "/tmp/x"), "loader"),
    ("imp", "load_source", ("x", "/tmp/x"), "loader"),
    ("zipimport", "zipimporter", ("/tmp/x.zip",), "loader"),
    ("pkgutil", "resolve_name", ("os:system",), "picklescan GHSA: pkgutil.resolve_name"),
    ("runpy", "run_path", ("/tmp/x.py",), "picklescan list"),
    ("runpy", "_run_code", ("1", {}), "picklescan list"),
    ("code", "InteractiveInterpreter", (), "picklescan list"),
    ("codeop", "compile_command", ("1",), "compiler"),
    ("operator", "attrgetter", ("system",), "picklescan list"),
    ("operator", "methodcaller", ("system", "id"), "picklescan list"),
    ("operator", "itemgetter", (0,), "fickling list"),
    ("_operator", "attrgetter", ("system",), "C name of operator"),
    ("functools", "partial", (1,), "picklescan list"),
    ("functools", "reduce", (1, []), "chained calls"),
    ("functools", "partialmethod", (1,), "chained calls"),
    ("itertools", "starmap", (1, []), "chained calls"),
    ("types", "FunctionType", (1, {}), "code objects"),
    ("types", "CodeType", (0,), "code objects"),
    ("types", "MethodType", (1, 2), "bound methods"),
    ("marshal", "loads", (b"",), "code objects"),
    ("pickle", "loads", (b"",), "a pickle in a pickle"),
    ("_pickle", "loads", (b"",), "a pickle in a pickle, C name"),
    ("pickle", "Unpickler", (1,), "a pickle in a pickle"),
    ("cloudpickle.cloudpickle", "_make_function", (), "cloudpickle"),
    ("cloudpickle.cloudpickle", "subimport", ("os",), "cloudpickle"),
    ("cloudpickle", "loads", (b"",), "cloudpickle"),
    ("dill._dill", "_create_code", (), "dill"),
    ("dill._dill", "_import_module", ("os",), "dill"),
    ("dill", "loads", (b"",), "dill"),
    ("joblib", "load", ("/tmp/x",), "joblib"),
    ("ctypes", "CDLL", ("/tmp/x.so",), "native code"),
    ("ctypes", "string_at", (0,), "native memory"),
    ("ctypes", "cdll.LoadLibrary", ("/tmp/x.so",), "native code, dotted"),
    ("_ctypes", "dlopen", ("/tmp/x.so", 0), "native code"),
    ("_ctypes", "call_function", (0, ()), "native code"),
    ("pty", "spawn", ("/bin/sh",), "picklescan list"),
    ("timeit", "timeit", ("1",), "picklescan GHSA-9gvj"),
    ("cProfile", "run", ("1",), "picklescan GHSA"),
    ("cProfile", "runctx", ("1", {}, {}), "picklescan GHSA"),
    ("profile", "run", ("1",), "picklescan GHSA"),
    ("profile", "Profile.run", ("1",), "picklescan GHSA, dotted"),
    ("pdb", "run", ("1",), "picklescan list"),
    ("bdb", "Bdb.run", ("1",), "picklescan list"),
    ("trace", "Trace.run", ("1",), "picklescan GHSA"),
    ("doctest", "debug_script", ("1",), "picklescan GHSA"),
    ("ensurepip", "_run_pip", ([],), "picklescan GHSA"),
    ("pip", "main", (["install", "x"],), "CVE-2025-1716"),
    ("pip._internal.cli.main", "main", (["install", "x"],), "CVE-2025-1716"),
    ("idlelib.pyshell", "ModifiedInterpreter.runcode", ("1",), "picklescan GHSA"),
    ("idlelib.run", "Executive.runcode", ("1",), "picklescan GHSA"),
    ("idlelib.calltip", "get_entity", ("x",), "picklescan GHSA: eval"),
    ("idlelib.autocomplete", "AutoComplete.get_entity", ("x",), "picklescan GHSA: eval"),
    ("idlelib.debugobj", "ObjectTreeItem.SetText", ("x",), "picklescan GHSA: eval"),
    ("lib2to3.pgen2.pgen", "ParserGenerator.make_label", ("x",), "picklescan GHSA: eval"),
    ("lib2to3.pgen2.grammar", "Grammar.loads", (b"",), "picklescan GHSA: pickle"),
    ("code", "InteractiveConsole", (), "picklescan list"),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start", (), "picklescan GHSA"),
    ("asyncio", "create_subprocess_shell", ("id",), "subprocess"),
    ("multiprocessing.util", "spawnv_passfds", (b"x", [], []), "picklescan list"),
    ("multiprocessing.connection", "Client", (("x", 1),), "socket and pickle"),
    ("_posixsubprocess", "fork_exec", (), "subprocess, C name"),
    ("_osx_support", "_read_output", ("id",), "fickling GHSA"),
    ("_aix_support", "_read_cmd_output", ("id",), "fickling GHSA"),
    ("_pyrepl.pager", "pipe_pager", ("x", "id"), "fickling GHSA"),
    ("uuid", "_get_command_stdout", ("id",), "fickling GHSA"),
    ("distutils.file_util", "write_file", (CANARY, ["x"]), "fickling GHSA"),
    ("shutil", "rmtree", ("/tmp/x",), "no code, still harm"),
    ("shutil", "copyfile", ("/etc/passwd", CANARY), "no code, still harm"),
    ("tempfile", "mktemp", (), "files"),
    ("pathlib", "Path", ("/etc/passwd",), "files"),
    ("pathlib", "Path.write_text", ("x",), "files, dotted"),
    ("io", "FileIO", (CANARY, "w"), "files"),
    ("_io", "FileIO", (CANARY, "w"), "files, C name"),
    ("io", "open_code", ("/etc/passwd",), "files"),
    ("linecache", "getlines", ("/etc/passwd",), "fickling GHSA: read files"),
    ("fileinput", "input", ("/etc/passwd",), "files"),
    ("codecs", "open", (CANARY, "w"), "files"),
    ("gzip", "open", (CANARY, "w"), "files"),
    ("sqlite3", "connect", (CANARY,), "files"),
    ("dbm.dumb", "open", (CANARY,), "files"),
    ("shelve", "open", (CANARY,), "files and pickle"),
    ("logging.config", "listen", (0,), "picklescan GHSA: listens and evals"),
    ("logging", "FileHandler", (CANARY,), "fickling: files"),
    ("socket", "socket", (), "network"),
    ("socket", "create_connection", (("127.0.0.1", 1),), "network"),
    ("ssl", "get_server_certificate", (("127.0.0.1", 1),), "picklescan GHSA: exfiltration"),
    ("urllib.request", "urlopen", ("http://127.0.0.1",), "network"),
    ("http.client", "HTTPSConnection", ("127.0.0.1",), "network"),
    ("smtplib", "SMTP", ("127.0.0.1",), "fickling GHSA: network"),
    ("ftplib", "FTP", ("127.0.0.1",), "network"),
    ("xmlrpc.client", "ServerProxy", ("http://x",), "network"),
    ("requests.api", "get", ("http://127.0.0.1",), "network"),
    ("aiohttp.client", "ClientSession", (), "network"),
    ("webbrowser", "open", ("http://x",), "programs"),
    ("venv", "create", ("/tmp/x",), "picklescan GHSA"),
    ("site", "addsitedir", ("/tmp/x",), "fickling: .pth files execute"),
    ("sys", "exit", (0,), "ends the process"),
    ("sys", "settrace", (1,), "hooks"),
    ("sys", "modules.__setitem__", ("os", 1), "module pollution"),
    ("os", "_exit", (0,), "ends the process"),
    ("os", "abort", (), "ends the process"),
    ("signal", "raise_signal", (9,), "ends the process"),
    ("faulthandler", "_sigsegv", (), "ends the process"),
    ("gc", "get_objects", (), "reads the heap"),
    ("inspect", "currentframe", (), "frames"),
    ("sys", "_getframe", (), "frames"),
    ("weakref", "finalize", (1, 2), "a later call"),
    ("atexit", "register", (1,), "a later call"),
    ("threading", "Timer", (0, 1), "a later call"),
    ("threading", "Thread", (), "a later call"),
    ("concurrent.futures", "ThreadPoolExecutor", (), "a later call"),
    ("contextlib", "ExitStack", (), "a later call"),
    ("unittest.mock", "_importer", ("os",), "imports"),
    ("test.support.script_helper", "run_python_until_end", (), "programs"),
    ("numpy", "load", ("/tmp/x.npy",), "a pickle in a file"),
    ("numpy.testing._private.utils", "runstring", ("1", {}), "picklescan GHSA: exec"),
    ("numpy.f2py.crackfortran", "getlincoef", ("1", []), "picklescan GHSA: eval"),
    ("numpy.f2py.crackfortran", "_eval_length", ("1", {}), "picklescan GHSA: eval"),
    ("numpy.f2py.crackfortran", "myeval", ("1",), "picklescan GHSA: eval"),
    ("numpy.f2py.crackfortran", "param_eval", ("1", {}, {}), "picklescan GHSA: eval"),
    ("numpy.distutils.misc_util", "exec_mod_from_location", ("x", "/tmp/x"), "GHSA"),
    ("numpy", "frombuffer", (b"",), "not on the list: only _frombuffer's form is"),
    ("numpy.core.multiarray", "fromfile", ("/etc/passwd",), "reads files"),
    ("numpy._core._internal", "_ctypes", (), "native code"),
    ("numpy", "memmap", ("/etc/passwd",), "reads files"),
    ("scipy.io", "loadmat", ("/tmp/x",), "reads files"),
    ("pandas", "read_pickle", ("/tmp/x",), "a pickle in a file"),
    ("pandas.core.computation.eval", "eval", ("1",), "eval"),
    ("sympy", "sympify", ("1",), "eval"),
    ("torch", "load", ("/tmp/x.pt",), "CVE-2025-32434"),
    ("torch.serialization", "load", ("/tmp/x.pt",), "CVE-2025-32434"),
    ("torch.jit", "load", ("/tmp/x.pt",), "programs"),
    ("torch.hub", "load", ("a/b", "c"), "CVE-2026-15969: prefix torch"),
    ("torch.hub", "download_url_to_file", ("http://x", CANARY), "prefix torch"),
    ("torch.ops", "load_library", ("/tmp/x.so",), "native code"),
    ("torch.classes", "load_library", ("/tmp/x.so",), "native code"),
    ("torch.utils.cpp_extension", "load", ("x", []), "native code"),
    ("torch.utils.collect_env", "run", ("id",), "picklescan GHSA"),
    ("torch.utils._config_module", "ConfigModule.load_config", (b"",), "picklescan GHSA: pickle"),
    ("torch.utils.bottleneck.__main__", "run_cprofile", ("1", {}), "picklescan GHSA"),
    ("torch.utils.bottleneck.__main__", "run_autograd_prof", ("1", {}), "picklescan GHSA"),
    ("torch.utils.data.datapipes.utils.decoder", "basichandlers", ("pkl", b""), "GHSA"),
    ("torch._dynamo.guards", "GuardBuilder.get", ("1",), "picklescan GHSA: eval"),
    ("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression", ("1",),
     "picklescan GHSA: eval"),
    ("torch.jit.unsupported_tensor_ops", "execWrapper", ("1", {}, {}), "picklescan GHSA: exec"),
    ("torch._inductor.codecache", "compile_file", ("x", "y", "z"), "picklescan list"),
    ("torch.distributed.rpc", "rpc_sync", (), "network"),
    ("torch.multiprocessing.reductions", "rebuild_storage_filename", (), "files"),
    ("torch.multiprocessing.reductions", "rebuild_cuda_tensor", (), "CUDA handles"),
    ("torch.storage", "UntypedStorage.from_file", ("/etc/passwd",), "reads files, dotted"),
    ("torch", "UntypedStorage.from_file", ("/etc/passwd", True, 8), "writes files, dotted"),
    ("torch._utils", "_rebuild_sparse_tensor", (), "unlisted neighbour"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", (), "unlisted neighbour"),
    ("torch._utils", "_import_dotted_name", ("os.system",), "imports"),
    ("torch._utils", "_get_available_device_type.__globals__", (), "dotted"),
    ("torch.nn.parameter", "Parameter.__class__", (), "dotted"),
    ("torch.nn.modules.module", "Module", (), "whole models"),
    ("sglang.srt.managers.schedule_batch", "os.system", ("id",), "CVE-2026-15969: dotted prefix"),
    ("sglang.srt.managers.schedule_batch", "Req", (), "unlisted neighbour"),
    ("sglang.srt.utils", "kill_process_tree", (1,), "CVE-2026-15969: prefix sglang"),
    ("sglang.srt.utils.common", "pickle.loads", (b"",), "CVE-2026-15969: dotted prefix"),
    ("sglang.srt.managers.io_struct", "unwrap_from_pickle", (b"",), "a pickle in a pickle"),
    ("sglang.srt.sampling.custom_logit_processor", "CustomLogitProcessor.from_str", ("x",),
     "CVE-2025-10164 kin: dill"),
    ("sglang.srt.weight_sync.tensor_bucket", "FlattenedTensorBucket", (), "CVE-2025-10164"),
    ("vllm.utils", "run_method", (1, "x", (), {}), "CVE-2025-32444 kin"),
    ("vllm.v1.serial_utils", "run_method", (1, "x", (), {}), "calls by name"),
    ("vllm.multimodal.inputs", "torch.load", ("/tmp/x",), "dotted"),
    ("transformers.utils.hub", "cached_file", ("a", "b"), "prefix transformers"),
    ("transformers.dynamic_module_utils", "get_class_from_dynamic_module", ("a", "b"), "imports"),
    ("PIL.Image", "open", ("/etc/passwd",), "prefix PIL"),
    ("PIL.ImageMath", "unsafe_eval", ("1",), "CVE-2023-50447: eval"),
    ("PIL.ImageShow", "UnixViewer.show_file", ("x",), "programs"),
    ("msgspec._utils", "get_class_annotations", (1,), "unlisted neighbour: eval"),
    ("msgspec._utils", "_eval_type", ("1", {}, {}), "unlisted neighbour: eval"),
    ("collections", "namedtuple", ("X", "a"), "exec in old Pythons"),
    ("collections", "Counter", (), "unlisted neighbour"),
    ("copyreg", "__newobj__", (1,), "constructs by argument"),
    ("copyreg", "add_extension", ("os", "system", 1), "pollutes the registry"),
    ("copyreg", "_extension_registry", (), "the registry"),
    ("copy_reg", "__newobj_ex__", (), "constructs by argument"),
    ("array", "array.fromfile", (), "dotted"),
    ("enum", "Enum", ("X", "a"), "class creation"),
    ("dataclasses", "make_dataclass", ("X", []), "exec"),
    ("typing", "get_type_hints", (1,), "eval"),
    ("builtins", "exec ", ("1",), "a trailing space"),
    (" builtins", "exec", ("1",), "a leading space"),
    ("builtins", "\u0435xec", ("1",), "a look-alike letter"),
    ("builtins\x00", "exec", ("1",), "a NUL"),
    ("builtins", "", (), "no name"),
    ("", "exec", (), "no module"),
    ("os.path", "os.system", ("id",), "dotted"),
    ("collections", "_sys.modules", (), "dotted through an allowed module"),
    ("numpy", "ndarray.tofile", (CANARY,), "dotted through an allowed name"),
    ("_codecs", "lookup", ("x",), "unlisted neighbour"),
    ("_codecs", "register", (1,), "unlisted neighbour"),
]  # fmt: skip


class _Reduce:
    def __init__(self, *answer: Any) -> None:
        self.answer = answer

    def __reduce__(self) -> Any:
        return self.answer


def _named() -> list[Attack]:
    made = []
    for module, name, arguments, source in CALLS:
        title = f"{module}.{name}"
        made.append(Attack(f"call {title}", source, call(module, name, *arguments), UNSAFE))
    for module, name in (("os", "system"), ("builtins", "eval"), ("posix", "system")):
        one = global_(module, name)
        forms = {
            "GLOBAL p0": one + b"(S'id'\ntR.",
            "INST": b"(S'id'\ni" + one[1:] + b".",
            "OBJ": b"(" + one + b"S'id'\no.",
            "NEWOBJ": b"\x80\x02" + one + b")\x81.",
            "NEWOBJ_EX": b"\x80\x04" + one + b")}\x92.",
            "popped before STOP": b"\x80\x02" + one + b"0N.",
            "put and never got": b"\x80\x02" + one + b"q\x000N.",
            "broken right after (nullifAI)": b"\x80\x02" + one + value(("id",)) + b"R\xff\xff",
            "in a dict key": b"\x80\x02}" + one + b"K\x01s.",
            "after a first pickle": pickle.dumps({"a": 1}) + call(module, name, "id"),
            "after a long frame": b"\x80\x04\x95\x04\x00\x00\x00\x00\x00\x00\x00N0N0" + one + b".",
        }
        for form, data in forms.items():
            made.append(Attack(f"{form} {module}.{name}", "opcode forms", data, UNSAFE))
    for protocol in range(6):
        made.append(
            Attack(f"__reduce__ to eval, protocol {protocol}", "pickle.dumps of a class",
                   pickle.dumps({"x": _Reduce(eval, ("1",))}, protocol), UNSAFE)
        )  # fmt: skip
    return made


def _allowed_abused() -> list[Attack]:
    """Calls of names that are on the list, with arguments that are not those of a writer."""
    item = stack_global("sglang.srt.managers.schedule_batch", "MultimodalDataItem")
    rebuild = stack_global("msgspec._utils", "rebuild")
    modality = stack_global("sglang.srt.managers.schedule_batch", "Modality")
    tensor = stack_global("torch._utils", "_rebuild_tensor_v2")
    from_type = stack_global("torch._tensor", "_rebuild_from_type_v2")
    reconstruct = stack_global("numpy._core.multiarray", "_reconstruct")
    reconstructor = stack_global("copyreg", "_reconstructor")
    ordered = stack_global("collections", "OrderedDict")
    encode = ("_codecs", "encode")
    dtype = stack_global("numpy", "dtype")
    cases: list[tuple[str, bytes, type[mm.MMFormatError]]] = [
        ("encode with zlib", call(*encode, "x", "zlib"), UNSAFE),
        ("encode with rot13", call(*encode, "x", "rot13"), UNSAFE),
        ("encode with idna", call(*encode, "x" * 10, "idna"), UNSAFE),
        ("encode of a number", call(*encode, 1, "latin1"), UNSAFE),
        ("encode with an error handler", call(*encode, "x", "latin1", "x"), UNSAFE),
        ("encode of no latin-1", call(*encode, "\u0436", "latin1"), DECODE),
        ("REDUCE of a class", item + b")R", UNSAFE),
        ("REDUCE of an instance", item + b")\x81)R", UNSAFE),
        ("REDUCE of a text", text("os.system") + b")R", UNSAFE),
        ("REDUCE of a dict", b"})R", UNSAFE),
        ("REDUCE without a tuple", ordered + b"]R", DECODE),
        ("NEWOBJ of a function", rebuild + b")\x81", UNSAFE),
        ("NEWOBJ of an enum", modality + b"K\x01\x85\x81", UNSAFE),
        ("NEWOBJ with arguments", item + b"K\x01\x85\x81", DECODE),
        ("NEWOBJ_EX with keywords", item + b")}" + text("x") + b"K\x01s\x92", UNSAFE),
        ("BUILD of a class (pollution)", item + b"}" + text("hash") + b"K\x01sb", UNSAFE),
        ("BUILD of a function", rebuild + b"}b", UNSAFE),
        ("BUILD of a dict", b"}}b", UNSAFE),
        ("BUILD of a tuple", b")}b", UNSAFE),
        ("BUILD with __class__", item + b")\x81}" + text("__class__") + b"K\x01sb", UNSAFE),
        ("BUILD with __setstate__", item + b")\x81}" + text("__setstate__") + b"K\x01sb", UNSAFE),
        ("BUILD with __reduce_ex__", item + b")\x81}" + text("__reduce_ex__") + b"K\x01sb", UNSAFE),
        ("BUILD with __dict__ as slots",
         item + b")\x81N}" + text("__dict__") + b"}s\x86b", UNSAFE),
        ("BUILD with a number as name", item + b")\x81}K\x01K\x02sb", DECODE),
        ("rebuild of an enum", rebuild + modality + b"}\x86R", UNSAFE),
        ("rebuild of a function", rebuild + rebuild + b"}\x86R", UNSAFE),
        ("rebuild of a text", rebuild + text("os.system") + b"}\x86R", UNSAFE),
        ("rebuild with dunder fields",
         rebuild + item + b"}" + text("__class__") + b"Ns\x86R", UNSAFE),
        ("_reconstructor of object", reconstructor + stack_global("builtins", "object") * 2
         + b"N\x87R", UNSAFE),
        ("_reconstructor with another base", reconstructor + item + stack_global("builtins", "dict")
         + b"}\x87R", UNSAFE),
        ("_reconstructor of a function",
         reconstructor + rebuild + stack_global("builtins", "object") + b"N\x87R", UNSAFE),
        ("_rebuild_from_type_v2 of another function",
         from_type + b"(" + rebuild + stack_global("torch", "Tensor") + b")}tR", UNSAFE),
        ("_rebuild_from_type_v2 of itself",
         from_type + b"(" + from_type + stack_global("torch", "Tensor") + b")}tR", UNSAFE),
        ("_rebuild_from_type_v2 to a struct", from_type + b"(" + tensor + item + b")}tR", UNSAFE),
        ("_reconstruct of a function", reconstruct + b"(" + rebuild + b"K\x00\x85C\x01btR", DECODE),
        ("_reconstruct of a struct", reconstruct + b"(" + item + b"K\x00\x85C\x01btR", DECODE),
        ("dtype of objects", _array_of(dtype + text("O8") + b"\x85R", b"C\x08" + bytes(8)), DECODE),
        ("dtype that is code", _array_of(dtype + text("i4,(eval)") + b"\x85R", b"C\x00"), DECODE),
        ("array data that is a list (objects)",
         _array_of(dtype + text("i4") + b"\x85R", b"]"), DECODE),
        ("tensor of no storage", tensor + b"(K\x01K\x00K\x01\x85K\x01\x85\x89NtR", DECODE),
        ("defaultdict with a factory that is no type",
         stack_global("collections", "defaultdict") + rebuild + b"K\x01\x86R", DECODE),
        ("OrderedDict of a dict of keys", ordered + b"]]]a\x61\x85R", DECODE),
        ("slice with too much", call("builtins", "slice", 1, 2, 3, 4)[2:-1], DECODE),
        ("array.array with a wrong code", call("array", "array", "u", [1])[2:-1], DECODE),
        ("array.array out of range", call("array", "array", "B", [999])[2:-1], DECODE),
        ("Modality of a list", modality + b"]\x85R", DECODE),
        ("STACK_GLOBAL of numbers", b"K\x01K\x02\x93", UNSAFE),
        ("STACK_GLOBAL of bytes", b"C\x02osC\x06system\x93", UNSAFE),
        ("STACK_GLOBAL of a tuple", b"))\x93", UNSAFE),
        ("STACK_GLOBAL of lone surrogates", text("\ud800") + text("x") + b"\x93", UNSAFE),
        ("persistent id, binary", text("x") + b"Q", UNSAFE),
        ("persistent id, text", b"Pstorage\n", UNSAFE),
        ("persistent id of a torch storage outside torch",
         b"(" + text("storage") + stack_global("torch", "FloatStorage") + text("0") + text("cpu")
         + b"K\x01tQ", UNSAFE),
        ("EXT1", b"\x82\x01", UNSAFE),
        ("EXT2", b"\x83\x01\x00", UNSAFE),
        ("EXT4", b"\x84\x01\x00\x00\x00", UNSAFE),
    ]  # fmt: skip
    return [
        Attack(name, "an allowed name, abused", b"\x80\x04" + _bare(data) + b".", error)
        for name, data, error in cases
    ]


def _bare(data: bytes) -> bytes:
    return data[2:-1] if data.startswith(b"\x80\x04") else data


def _array_of(dtype: bytes, data: bytes) -> bytes:
    head = stack_global("numpy._core.multiarray", "_reconstruct")
    ndarray = stack_global("numpy", "ndarray")
    begin = head + b"(" + ndarray + b"K\x00\x85C\x01btR"
    return begin + b"(K\x01K\x01\x85" + dtype + b"\x89" + data + b"tb"


def _again(levels: int, times: int) -> bytes:
    """Return a pickle that reads the pickle within it several times, and so on down."""
    stream = b"\x80\x04N."
    rebuild = stack_global("msgspec._utils", "rebuild") + b"\x94"
    wrapper = stack_global("sglang.srt.managers.io_struct", "PickleWrapper") + b"\x94"
    for _ in range(levels):
        data = b"B" + struct.pack("<I", len(stream)) + stream
        fields = b"}" + text("data") + data + b"s\x94h\x01h\x02\x86\x94"
        calls = b"0000" + b"h\x00h\x03R0" * times
        stream = b"\x80\x04" + rebuild + wrapper + fields + calls + b"N."
    return stream


def _again_torch(times: int) -> bytes:
    """Return a pickle that reads one torch stream several times."""
    import torch

    file = io.BytesIO()
    torch.save(torch.arange(4.0).untyped_storage(), file, _use_new_zipfile_serialization=False)
    stream = file.getvalue()
    load = stack_global("torch.storage", "_load_from_bytes") + b"\x94"
    data = b"B" + struct.pack("<I", len(stream)) + stream + b"\x85\x94"
    return b"\x80\x04" + load + data + b"00" + b"h\x00h\x01R0" * times + b"N."


def _bombs() -> list[Attack]:
    laughs = b"\x80\x02](" + b"K\x01" * 10 + b"eq\x00"
    laughs += b"".join(b"0](" + b"h" + bytes([n]) + (b"h" + bytes([n])) * 9 + b"eq" + bytes([n + 1])
                       for n in range(30))  # fmt: skip
    tuples = b"\x80\x02K\x01\x85q\x00" + b"".join(
        b"0h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60)
    )
    keys = (
        b"\x80\x02}"
        + b"K\x01\x85q\x00"
        + b"".join(
            b"0h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60)
        )
    )
    long_text = text("x" * 100_000) + b"q\x000"
    quadratic = b"\x80\x02" + long_text + b"](" + b"h\x00" * 5_000 + b"e."
    # Multiples of 2**61 - 1 share one hash; LONG1 carries them.
    colliding = [
        b"\x8a\x10" + (n * (2**61 - 1)).to_bytes(16, "little") for n in range(2**20, 2**20 + 99)
    ]
    collide = b"".join(key + b"N" for key in colliding)
    call_set = stack_global("builtins", "set") + b"](" + b"".join(colliding) + b"e\x85R"
    cases: list[tuple[str, bytes, type[mm.MMFormatError], tuple[tuple[str, int], ...]]] = [
        ("pickles read again 30 times a level", _again(4, 30), LIMIT, ()),
        ("pickles read again 45 times a level", _again(4, 45), LIMIT, (("time_s", 1),)),
        ("torch streams read again", _again_torch(40), LIMIT, ()),
        ("opcodes of many pickles", (b"\x80\x02" + b"N0" * 6_000 + b"N.") * 20, LIMIT,
         (("opcodes", 100_000),)),
        ("integers of many pickles", (b"\x80\x02](" + b"K\x07" * 9_000 + b"e.") * 20, LIMIT,
         (("opcodes", 100_000),)),
        ("keys of one hash", b"\x80\x02}(" + collide + b"u.", DECODE, ()),
        ("elements of one hash", b"\x80\x04\x8f(" + b"".join(colliding) + b"\x90.", DECODE, ()),
        ("elements of one hash in a call", b"\x80\x04" + call_set + b".", DECODE, ()),
        ("billion laughs of lists", laughs + b".", LIMIT, ()),
        ("billion laughs of tuples", tuples + b".", LIMIT, ()),
        ("exponential hash of a tuple key", keys + b"K\x01s.", DECODE, ()),
        ("exponential hash in a set", b"\x80\x04\x8f(" + tuples[2:] + b"\x90.", DECODE, ()),
        ("quadratic blow-up of text", quadratic, LIMIT, ()),
        ("a list in itself", b"\x80\x02]q\x00h\x00a.", DECODE, ()),
        ("a dict in itself", b"\x80\x02}q\x00K\x01h\x00s.", DECODE, ()),
        ("an instance in itself", b"\x80\x04" + stack_global(
            "sglang.srt.managers.schedule_batch", "MultimodalDataItem")
         + b")\x81q\x00}" + text("feature") + b"h\x00sb.", DECODE, ()),
        ("100,000 lists deep", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", LIMIT, ()),
        ("100,000 tuples deep", b"\x80\x02K\x01" + b"\x85" * 100_000 + b".", LIMIT, ()),
        ("100,000 marks", b"(" * 100_000 + b".", DECODE, ()),
        ("memo bomb", b"\x80\x04" + b"N\x940" * 2_000 + b"N.", LIMIT, (("memo", 1_000),)),
        ("memo bomb by LONG_BINPUT",
         b"\x80\x02N" + b"".join(b"r" + struct.pack("<I", n) for n in range(2_000)) + b".",
         LIMIT, (("memo", 1_000),)),
        ("opcode bomb", b"\x80\x02" + b"N0" * 60_000 + b"N.", LIMIT, (("opcodes", 100_000),)),
        ("pickle bomb", b"N." * 2_000, LIMIT, (("pickles", 1_000),)),
        ("too large a file", b"\x80\x02" + b"N0" * 600 + b"N.", LIMIT, (("source_nbytes", 1_000),)),
        ("an integer of 2 GiB (LONG4)", b"\x80\x02\x8b\xff\xff\xff\x7f\x00.", LIMIT, ()),
        ("an integer of 300 bytes (LONG4)",
         b"\x80\x02\x8b" + struct.pack("<i", 300) + bytes(300) + b".", LIMIT, ()),
        ("an integer of 4,000 digits (LONG)", b"L" + b"9" * 4_000 + b"L\n.", LIMIT, ()),
        ("an integer of 4,000 digits (INT)", b"I" + b"9" * 4_000 + b"\n.", LIMIT, ()),
        ("an integer of a million digits", b"L" + b"9" * 1_000_000 + b"L\n.", DECODE, ()),
        ("a negative length (LONG4)", b"\x80\x02\x8b\xff\xff\xff\xff.", DECODE, ()),
        ("a negative length (BINSTRING)", b"\x80\x01T\xff\xff\xff\xff.", DECODE, ()),
    ]  # fmt: skip
    for name, opcode in (("FRAME", b"\x95"), ("BINUNICODE8", b"\x8d"), ("BINBYTES8", b"\x8e"),
                         ("BYTEARRAY8", b"\x96")):  # fmt: skip
        for length in (2**31, 2**62, 2**63, 2**64 - 1):
            data = b"\x80\x05" + opcode + struct.pack("<Q", length) + b"abc."
            cases.append((f"{name} of {length:#x} bytes", data, TRUNCATED, ()))
    for name, opcode in (("BINUNICODE", b"X"), ("BINBYTES", b"B")):
        data = b"\x80\x04" + opcode + struct.pack("<I", 2**32 - 1) + b"abc."
        cases.append((f"{name} of 4 GiB", data, TRUNCATED, ()))
    return [Attack(name, "a bomb", data, error, limits) for name, data, error, limits in cases]


def _broken() -> list[Attack]:
    cases: list[tuple[str, bytes, type[mm.MMFormatError]]] = [
        ("no bytes", b"", TRUNCATED),
        ("only STOP", b".", DECODE),
        ("only PROTO", b"\x80\x04", TRUNCATED),
        ("two values at STOP", b"\x80\x02NN.", DECODE),
        ("STOP within a mark", b"\x80\x02(N.", DECODE),
        ("protocol 6", b"\x80\x06N.", DECODE),
        ("protocol 255", b"\x80\xffN.", DECODE),
        ("an unknown opcode", b"\x80\x04\xee.", DECODE),
        ("text where a pickle should be", b"<html>not a pickle</html>", DECODE),
        ("bytes after STOP that are none", b"N.\xff\xff", DECODE),
        ("a memo entry that is not there", b"\x80\x02h\x05.", DECODE),
        ("a text memo entry that is not there", b"g5\n.", DECODE),
        ("a negative memo index", b"Np-1\n.", DECODE),
        ("a memo index that is no number", b"Npx\n.", DECODE),
        ("REDUCE on an empty stack", b"\x80\x02R.", DECODE),
        ("SETITEMS without a mark", b"\x80\x02}u.", DECODE),
        ("an odd number of items", b"\x80\x02}(K\x01u.", DECODE),
        ("APPEND to a dict", b"\x80\x02}K\x01a.", DECODE),
        ("APPEND to a tuple", b"\x80\x02)K\x01a.", DECODE),
        ("SETITEM of a list", b"\x80\x02]K\x01K\x02s.", DECODE),
        ("ADDITEMS to a list", b"\x80\x04](K\x01\x90.", DECODE),
        ("a list as a key", b"\x80\x02}]K\x01s.", DECODE),
        (
            "an instance as a key",
            b"\x80\x04}"
            + stack_global("sglang.srt.managers.schedule_batch", "MultimodalDataItem")
            + b")\x81K\x01s.",
            DECODE,
        ),
        ("an out-of-band buffer that is not there", b"\x80\x05\x97.", DECODE),
        ("READONLY_BUFFER of a number", b"\x80\x05K\x01\x98.", DECODE),
        ("text that is no UTF-8", b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", DECODE),
        ("a name that is no UTF-8", b"c\xff\xfe\nx\n.", DECODE),
        ("a float that is none", b"Fabc\n.", DECODE),
        ("an int that is code", b"I__import__('os')\n.", DECODE),
        ("a string without quotes", b"Sabc\n.", DECODE),
        ("a string with an open quote", b"S'abc\n.", DECODE),
        ("a line without an end", b"cos", TRUNCATED),
        ("a module name of 10,000 bytes", b"c" + b"a" * 10_000 + b"\nx\n.", DECODE),
        ("an array without its state", b"\x80\x04" + _bare(_array_head()) + b".", DECODE),
    ]
    return [Attack(name, "a broken stream", data, error) for name, data, error in cases]


def _array_head() -> bytes:
    return (stack_global("numpy._core.multiarray", "_reconstruct") + b"("
            + stack_global("numpy", "ndarray") + b"K\x00\x85C\x01btR")  # fmt: skip


PREFIX = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80024de9032e") + pickle.dumps(
    {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}, 2
)


def storage_stream(
    numel: int = 4,
    *,
    data: bytes | None = None,
    count: int | None = None,
    root: bytes | None = None,
    keys: Any = ("0",),
    prefix: bytes = PREFIX,
) -> bytes:
    """Return a nested torch stream of one float32 storage, or one that lies."""
    identifier = (b"(" + text("storage") + global_("torch", "FloatStorage") + text("0")
                  + text("cpu") + value(numel) + b"NtQ")  # fmt: skip
    body = b"\x80\x02" + (identifier if root is None else root) + b"."
    raw = bytes(range(256))[: numel * 4] if data is None else data
    tail = struct.pack("<q", numel if count is None else count) + raw
    return prefix + body + pickle.dumps(list(keys), 2) + tail


def torch_tensor(
    stream: bytes, offset: Any = 0, shape: Any = (4,), stride: Any = (1,), grad: Any = False
) -> bytes:
    """Return a pickle of one torch tensor over a nested stream."""
    storage = stack_global("torch.storage", "_load_from_bytes") + (
        b"B" + struct.pack("<I", len(stream)) + stream + b"\x85R"
    )
    hooks = stack_global("collections", "OrderedDict") + b")R"
    parts = value(offset) + value(shape) + value(stride) + value(grad) + hooks
    head = stack_global("torch._utils", "_rebuild_tensor_v2")
    return b"\x80\x04" + head + b"(" + storage + parts + b"tR."


def _tensors() -> list[Attack]:
    good = storage_stream()
    evil = storage_stream(root=global_("os", "system") + value(("id",)) + b"R")
    cases: list[tuple[str, bytes, type[mm.MMFormatError], tuple[tuple[str, int], ...]]] = [
        ("os.system in a nested stream (CVE-2025-32434 kin)", torch_tensor(evil), UNSAFE, ()),
        ("os.system as the magic number", torch_tensor(
            b"\x80\x02" + global_("os", "system") + b")R." + good[15:]), UNSAFE, ()),
        ("os.system among the keys", torch_tensor(
            PREFIX + b"\x80\x02N." + b"\x80\x02" + global_("os", "system") + b")R."), UNSAFE, ()),
        ("a tensor one element past its storage", torch_tensor(good, 1), DECODE, ()),
        ("a shape past its storage", torch_tensor(good, 0, (5,)), DECODE, ()),
        ("a stride past its storage", torch_tensor(good, 0, (4,), (2,)), DECODE, ()),
        ("an offset of 2**62", torch_tensor(good, 2**62), DECODE, ()),
        ("an offset of -1", torch_tensor(good, -1, (1,)), DECODE, ()),
        ("a stride of -1", torch_tensor(good, 3, (4,), (-1,)), DECODE, ()),
        ("extents that overflow 64 bits", torch_tensor(good, 0, (2**33, 2**33), (0, 0)), LIMIT, ()),
        ("an extent of 2**64", torch_tensor(good, 0, (2**64,)), DECODE, ()),
        ("an extent of -1", torch_tensor(good, 0, (-1,)), DECODE, ()),
        ("an extent that is True", torch_tensor(good, 0, (True,)), DECODE, ()),
        ("a shape that is a text", torch_tensor(good, 0, "44"), DECODE, ()),
        ("fewer strides than axes", torch_tensor(good, 0, (2, 2), (1,)), DECODE, ()),
        ("64 axes", torch_tensor(good, 0, (1,) * 64, (1,) * 64), LIMIT, ()),
        ("a terabyte by a stride of 0", torch_tensor(good, 0, (2**38,), (0,)), LIMIT, ()),
        ("a gigabyte by a stride of 0", torch_tensor(good, 0, (2**28,), (0,)), LIMIT, ()),
        ("requires_grad that is a dict", torch_tensor(good, grad={}), DECODE, ()),
        ("a storage count that lies", torch_tensor(storage_stream(count=5)), DECODE, ()),
        ("a negative storage count", torch_tensor(storage_stream(count=-1)), DECODE, ()),
        ("a storage that is too short", torch_tensor(storage_stream(data=b"abc")), TRUNCATED, ()),
        ("a storage of 2**60 elements",
         torch_tensor(storage_stream(2**60, data=b"")), TRUNCATED, ()),
        ("a storage of -4 elements", torch_tensor(storage_stream(-4, data=b"")), DECODE, ()),
        ("a key without a storage", torch_tensor(storage_stream(keys=("1",))), DECODE, ()),
        ("a key twice", torch_tensor(storage_stream(keys=("0", "0"))), DECODE, ()),
        ("no keys", torch_tensor(storage_stream(keys=())), DECODE, ()),
        ("keys that are numbers", torch_tensor(storage_stream(keys=(0,))), DECODE, ()),
        ("a stream that is no storage", torch_tensor(storage_stream(root=b"}")), DECODE, ()),
        ("an empty stream", torch_tensor(b""), TRUNCATED, ()),
        ("a wrong magic number", torch_tensor(b"\x80\x02K\x01." + good[15:]), DECODE, ()),
        ("a big-endian writer", torch_tensor(storage_stream(
            prefix=PREFIX[:21] + pickle.dumps({"little_endian": False}, 2))), DECODE, ()),
        ("a stream in a stream in a stream", _nested(8), LIMIT, ()),
        ("more tensors than allowed", b"\x80\x04](" + _bare(torch_tensor(good)) * 5 + b"e.",
         LIMIT, (("tensors", 4),)),
        ("numpy shape past its bytes", b"\x80\x04" + _array_of(
            stack_global("numpy", "dtype") + text("f8") + b"\x85R", b"C\x04abcd") + b".",
         DECODE, ()),
        ("numpy dtype with fields", b"\x80\x04" + _array_of(
            stack_global("numpy", "dtype") + text("V4") + b"\x85R(K\x03" + text("|") + b"N"
            + value(("a",)) + b"}K\x04K\x01K\x00tb", b"C\x04abcd") + b".", DECODE, ()),
    ]  # fmt: skip
    return [
        Attack(name, "a tensor that lies", data, error, limits)
        for name, data, error, limits in cases
    ]


def _nested(depth: int) -> bytes:
    stream = storage_stream()
    for _ in range(depth):
        load = global_("torch.storage", "_load_from_bytes")
        root = load + b"B" + struct.pack("<I", len(stream)) + stream + b"\x85R"
        stream = storage_stream(root=root, keys=())
    return torch_tensor(stream)


def torch_zip(
    root: bytes, *, data: bytes = bytes(16), compress: bool = False, key: str = "0", **more: bytes
) -> bytes:
    """Return a zip as torch.save writes it."""
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as archive:
        archive.writestr("archive/data.pkl", root)
        archive.writestr("archive/byteorder", "little")
        archive.writestr(f"archive/data/{key}", data)
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


def zip_root(numel: int = 4, key: str = "0") -> bytes:
    """Return the data.pkl of one float32 tensor."""
    storage = (b"(" + text("storage") + global_("torch", "FloatStorage") + text(key) + text("cpu")
               + value(numel) + b"tQ")  # fmt: skip
    hooks = global_("collections", "OrderedDict") + b")R"
    return (b"\x80\x02" + global_("torch._utils", "_rebuild_tensor_v2") + b"(" + storage
            + b"K\x00K\x04\x85K\x01\x85\x89" + hooks + b"tR.")  # fmt: skip


def _zips() -> list[Attack]:
    good = torch_zip(zip_root())
    flags = bytearray(good)
    flags[good.index(b"PK\x01\x02") + 8] |= 1
    directory = good.index(b"PK\x01\x02")
    size_lies = bytearray(good)
    size_lies[directory + 20 : directory + 28] = b"\xff\xff\xff\x7f\xff\xff\xff\x7f"
    local_gone = bytearray(good)
    local_gone[directory + 42 : directory + 46] = struct.pack("<I", len(good) - 60)
    cases: list[tuple[str, bytes, type[mm.MMFormatError]]] = [
        ("os.system in data.pkl",
         torch_zip(b"\x80\x02" + global_("os", "system") + b")R."), UNSAFE),
        ("a compressed member (zip bomb)", torch_zip(zip_root(), compress=True), DECODE),
        ("an encrypted flag (picklescan GHSA)", bytes(flags), DECODE),
        ("sizes past the file", bytes(size_lies), TRUNCATED),
        ("a member that is not where it says", bytes(local_gone), DECODE),
        ("a zip without its end", good[:-30], TRUNCATED),
        ("a zip without data.pkl", _plain_zip({"x/y": b"1"}), DECODE),
        ("two data.pkl", _plain_zip({"a/data.pkl": zip_root(), "b/data.pkl": zip_root()}), DECODE),
        ("a storage that is too short", torch_zip(zip_root(), data=bytes(15)), DECODE),
        ("a storage that is too long", torch_zip(zip_root(), data=bytes(17)), DECODE),
        ("a storage key that leaves the folder", torch_zip(zip_root(key="../../x")), DECODE),
        ("a big-endian file", _plain_zip({"archive/data.pkl": zip_root(),
                                          "archive/data/0": bytes(16),
                                          "archive/byteorder": b"big"}), DECODE),
        ("no storage", _plain_zip({"archive/data.pkl": zip_root()}), DECODE),
    ]  # fmt: skip
    return [Attack(f"zip: {name}", "a torch.save file", data, error) for name, data, error in cases]


def _plain_zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def corpus() -> list[Attack]:
    """Return every attack; names are unique."""
    groups: tuple[Callable[[], list[Attack]], ...] = (
        _named, _allowed_abused, _bombs, _broken, _tensors, _zips,
    )  # fmt: skip
    return [attack for group in groups for attack in group()]


def globals_of(data: bytes) -> set[str]:
    """Return the globals that pickletools sees by GLOBAL and INST."""
    found = set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("GLOBAL", "INST"):
            found.add(str(argument).replace(" ", "."))
    return found
