"""As much of the ELF format as the tests look at: sections by name, and the dependencies that cargo-auditable has left in one."""

import json
import struct
import zlib

MAGIC = b"\x7fELF"


def sections(data):
    """The sections of a 64-bit little-endian file: name to bytes; of one that takes no room in the file, none."""
    assert data[:6] == MAGIC + b"\x02\x01", "a 64-bit little-endian ELF file"
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + index * size) for index in range(count)]
    strings = headers[names][4]
    nobits = 8
    found = {}
    for name, kind, _flags, _address, offset, length in headers:
        end = data.index(b"\0", strings + name)
        found[data[strings + name : end].decode()] = b"" if kind == nobits else data[offset : offset + length]
    return found


def dependencies(data):
    """The crates that a program is made of."""
    return json.loads(zlib.decompress(sections(data)[".dep-v0"]))["packages"]
