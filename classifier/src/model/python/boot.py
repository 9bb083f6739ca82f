def boot():
    # Imports only modules that the interpreter has loaded already, since the user's folder may come first in the path.
    import os, sys
    pipe = open(0, "rb", buffering=0, closefd=False)
    def read(count):
        data = b""
        while len(data) < count:
            piece = pipe.read(count - len(data))
            if not piece:
                os._exit(0)
            data += piece
        return data
    source = read(int.from_bytes(read(4), "big"))
    runner = type(sys)("classifier_runner")
    runner.PATH = list(sys.path)
    runner.OWN_MODULES = set(sys.modules)
    library = os.path.dirname(os.__file__)
    standard = [p for p in sys.path if p == library or p.endswith("lib-dynload") or p.endswith(".zip")]
    others = [p for p in sys.path if p and p not in standard]
    sys.path[:] = standard + others + [os.getcwd()]
    sys.modules[runner.__name__] = runner
    exec(compile(source, "<classifier runner>", "exec"), runner.__dict__)
boot()
