#!/usr/bin/env python3
"""Writes the zTOC of `stored.rs` with the package `flatbuffers` 25.12.19 for Python, in the order in
which SOCI writes zTOCs: `example.head`, the first bytes, and `example.sha256`, the digest of all."""

import hashlib
import os
import struct

import flatbuffers


def table(builder, size, fields):
    builder.StartObject(size)
    for slot, kind, value in fields:
        if kind == "offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        elif kind == "i64":
            builder.PrependInt64Slot(slot, value, 0)
        elif kind == "i32":
            builder.PrependInt32Slot(slot, value, 0)
        else:
            builder.PrependUint32Slot(slot, value, 0)
    return builder.EndObject()


def vector(builder, places):
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return builder.EndVector()


def member(builder, name, kind, offset, size, link, uid, time, device, records):
    texts = [builder.CreateString(text) for text in (name, kind, link, "root", "", time)]
    pairs = []
    for key, value in sorted(records.items()):
        key, value = builder.CreateString(key), builder.CreateString(value)
        pairs.append(table(builder, 2, [(0, "offset", key), (1, "offset", value)]))
    pairs = vector(builder, pairs)
    return table(builder, 14, [
        (0, "offset", texts[0]), (1, "offset", texts[1]), (2, "i64", offset), (3, "i64", size),
        (4, "offset", texts[2]), (5, "i64", 0o644), (6, "u32", uid), (7, "u32", 0),
        (8, "offset", texts[3]), (9, "offset", texts[4]), (10, "offset", texts[5]),
        (11, "i64", device[0]), (12, "i64", device[1]), (13, "offset", pairs),
    ])


builder = flatbuffers.Builder(0)
version = builder.CreateString("0.9")
tool = builder.CreateString("a test")
time = "2023-11-14T22:13:20Z"
attributes = {"SCHILY.xattr.user.a": "1", "mtime": "1700000000.25"}
members = [
    ("a", "reg", 512, 1000, "", 1000, time, (0, 0), {}),
    ("dir/b", "symlink", 2048, 0, "../a", 0, time, (0, 0), attributes),
    ("null", "char", 2560, 0, "", 0, "", (1, 3), {}),
]
places = [member(builder, *one) for one in reversed(members)]
contents = table(builder, 1, [(0, "offset", vector(builder, places[::-1]))])
points = struct.pack("<iq", 2, 1024)
points += struct.pack("<qqB", 10, 0, 0) + bytes(32768)
points += struct.pack("<qqB", 300, 1025, 5) + bytes([1025 % 256]) * 32768
points = builder.CreateByteVector(points)
digests = ["sha256:" + hashlib.sha256(text).hexdigest() for text in (b"a", b"b")]
digests = vector(builder, [builder.CreateString(text) for text in digests])
spans = table(builder, 4, [(1, "i32", 1), (2, "offset", digests), (3, "offset", points)])
builder.Finish(table(builder, 6, [
    (0, "offset", version), (1, "offset", tool), (4, "offset", contents), (2, "i64", 900),
    (3, "i64", 3584), (5, "offset", spans),
]))
ztoc = bytes(builder.Output())
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "example.head"), "wb") as file:
    file.write(ztoc[:400])
with open(os.path.join(here, "example.sha256"), "w") as file:
    file.write(hashlib.sha256(ztoc).hexdigest() + "\n")
