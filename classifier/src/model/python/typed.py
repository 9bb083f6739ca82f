

class Typed:
    """Runs a model that gets typed columns and returns new ones.

    A request is the number of rows (4 bytes, big-endian), the length of the head (4 bytes), and the head: a letter for the
    type of each column, a line end, the CSV's header. Then come the columns, as `columns::Table` encodes them.

    An answer's schema is a list of the new columns: for each its name and the kinds of its values, and a letter for their
    encoding: numbers with their bytes, or texts with a NUL between two, preceded by their length. The classifier prints them.
    """

    NUMBERS = {"i": "int64", "u": "uint64", "n": "float64", "f": "float64"}

    def __init__(self, pandas, function, name):
        import numpy

        self.pandas, self.numpy = pandas, numpy
        self.function, self.name = function, name
        self.head = None
        self.loop = None

    def classify(self, rows, payload):
        (length,) = struct.unpack_from(">I", payload, 4)
        self.read_head(payload[8 : 8 + length])
        start = aligned(8 + length)
        columns = self.columns(rows, payload, start)
        frame = self.pandas.DataFrame(dict(enumerate(columns)), index=self.pandas.RangeIndex(rows))
        frame.columns = self.names
        # The function may change what it got.
        del columns
        result = self.function(frame)
        if inspect.isawaitable(result):
            result = self.wait(result)
        added = self.added(result, rows, lambda: self.columns(rows, payload, start))
        schema, body = [], []
        for name, column in added:
            letter, kinds, values = self.encode(name, column)
            schema.append([[printable(name), kinds], letter])
            body.append(values)
        return schema, b"".join(body)

    def read_head(self, head):
        if head == self.head:
            return
        letters, _, header = head.partition(b"\n")
        self.letters = letters.decode("ascii")
        # Pandas makes names unique, and makes up missing ones.
        self.names = self.pandas.read_csv(io.BytesIO(header + b"\n"), nrows=0, index_col=False).columns
        self.places = {str(name): i for i, name in enumerate(self.names)}
        self.head = head

    def columns(self, rows, payload, offset):
        columns = []
        for letter in self.letters:
            column, offset = self.column(letter, rows, payload, offset)
            columns.append(column)
        return columns

    def column(self, letter, rows, payload, offset):
        """Reads a column, and returns it with the offset of the next one."""
        numpy = self.numpy
        if letter in self.NUMBERS:
            return numpy.frombuffer(payload, self.NUMBERS[letter], rows, offset), offset + 8 * rows
        if letter in "bm":
            values = numpy.frombuffer(payload, "uint8", rows, offset)
            # Missing ones make it a column of objects.
            values = values.astype(bool) if letter == "b" else numpy.array([False, True, numpy.nan], dtype=object)[values]
            return values, aligned(offset + rows)
        entries, length, missing = struct.unpack_from("=QQQ", payload, offset)
        start = offset + 24
        texts = payload[start : start + length].decode("utf-8").split("\0")
        offset = aligned(start + length)
        count = rows if entries else missing
        numbers = numpy.frombuffer(payload, "uint32", count, offset) if count else []
        if entries:
            values = numpy.array(texts + [numpy.nan], dtype=object)[numbers]
        else:
            values = numpy.array(texts, dtype=object)
            if missing:
                values[numbers] = numpy.nan
        if not strings_are_objects(self.pandas):
            values = self.pandas.array(values, dtype="str")
        return values, aligned(offset + 4 * count)

    def wait(self, result):
        import asyncio

        if self.loop is None:
            self.loop = asyncio.new_event_loop()
        return self.loop.run_until_complete(result)

    def added(self, result, rows, columns):
        """The names and values of the new columns in a result for this many rows. `columns` reads the input again."""
        pandas = self.pandas
        table, is_named = self.table(result)
        if len(table) != rows:
            raise ValueError("%s returned %d values for %d rows" % (self.name, len(table), rows))
        if not table.index.equals(pandas.RangeIndex(rows)):
            raise ValueError(
                "%s changed the index, and so perhaps the order of the rows; return values in the order of the rows, or with"
                " the index of the argument" % self.name
            )
        if isinstance(table, pandas.Series):
            is_new = table.name is not None and str(table.name) not in self.places
            table = pandas.DataFrame({str(table.name) if is_new else "CLASSIFICATION": table})
            is_named = is_new
        taken = [str(name) for name in table.columns if str(name) in self.places]
        if taken and not is_named:
            raise ValueError(
                "%s returned values without a name, and the input has a column %s already; return a DataFrame, with another"
                " name" % (self.name, taken[0])
            )
        kept = [i for i, name in enumerate(table.columns) if str(name) not in self.places]
        if taken:
            self.check_kept(table, columns())
        names = [str(table.columns[i]) for i in kept]
        if not names:
            raise ValueError("%s returned no new column" % self.name)
        if len(set(names)) < len(names):
            raise ValueError("%s returned two columns of the same name, of %s" % (self.name, ", ".join(names)))
        return [(name, table.iloc[:, i]) for name, i in zip(names, kept)]

    def check_kept(self, table, columns):
        """Checks that the columns that are named like the input's have its values, since results keep the input as it came."""
        for j, name in enumerate(map(str, table.columns)):
            if name in self.places and not self.pandas.Series(columns[self.places[name]]).equals(table.iloc[:, j]):
                raise ValueError(
                    "%s returned the input's column %r with other values; results keep the input as it came, so return"
                    " only new columns, or give this one another name" % (self.name, name)
                )

    def table(self, result):
        """The result as a Series or DataFrame, and whether its columns have names of their own."""
        pandas, numpy = self.pandas, self.numpy
        if hasattr(result, "to_pandas"):
            result = result.to_pandas()
        if isinstance(result, (pandas.Series, pandas.DataFrame)):
            return result, True
        if isinstance(result, dict):
            return pandas.DataFrame(result), True
        if isinstance(result, (str, bytes)) or not (hasattr(result, "__iter__") or hasattr(result, "__array__")):
            raise TypeError(
                "%s returned a %s; it must return a value for each row, as a Series, an array, a list, a dict of columns or a"
                " DataFrame" % (self.name, type(result).__name__)
            )
        if not hasattr(result, "__array__"):
            result = list(result)
            if not any(isinstance(row, (list, tuple, dict)) or hasattr(row, "__array__") and numpy.ndim(row) for row in result):
                return pandas.Series(result), False
            if any(isinstance(row, dict) for row in result):
                return pandas.DataFrame(result), True
        # Pandas knows what is missing in a masked array.
        array = result if isinstance(result, (list, numpy.ma.MaskedArray)) else numpy.asarray(result)
        if not isinstance(array, list) and array.ndim == 1:
            return pandas.Series(array), False
        if not isinstance(array, list) and array.ndim != 2:
            raise ValueError("%s returned an array of %d dimensions" % (self.name, array.ndim))
        table = pandas.DataFrame(array)
        several = table.shape[1] > 1
        table.columns = ["CLASSIFICATION" + ("_%d" % i if several else "") for i in range(table.shape[1])]
        return table, False

    def encode(self, name, column):
        """A column's encoding, the kinds of its values, and its bytes."""
        kind = column.dtype
        if isinstance(kind, self.numpy.dtype):
            values = column.to_numpy()
            if kind.kind in "iu":
                letter = kind.kind
                return letter, ["integer"], values.astype("int64" if letter == "i" else "uint64").tobytes()
            if kind.kind == "b":
                return "b", ["boolean"], values.astype("uint8").tobytes()
            if kind.kind == "f" and kind.itemsize in (4, 8):
                known = "decimal" if kind.itemsize == 8 else "decimal (float32)"
                kinds = [] if self.numpy.isnan(values).all() else [known]
                native = values.astype(kind.newbyteorder("="))
                return "d" if kind.itemsize == 8 else "f", kinds, native.tobytes()
        kinds = kinds_of(self.pandas, column)
        categories = kind.categories.dtype if isinstance(kind, self.pandas.CategoricalDtype) else kind
        if categories == object or self.pandas.api.types.is_string_dtype(categories):
            # Each value is printed by itself, and a missing one as nothing.
            missing = column.isna()
            texts = ["" if is_missing else str(text) for text, is_missing in zip(column.tolist(), missing)]
        else:
            printed = column.to_csv(header=False, index=False, lineterminator="\n")
            texts = [row[0] for row in csv.reader(io.StringIO(printed, newline=""))]
        joined = "\0".join(texts)
        if joined.count("\0") != len(texts) - 1:
            raise ValueError("%s returned a NUL character in column %s" % (self.name, name))
        encoded = joined.encode("utf-8", "surrogatepass")
        return "t", kinds, struct.pack("=Q", len(encoded)) + encoded


def aligned(offset):
    """The next offset at which a column may begin."""
    return -(-offset // 8) * 8
