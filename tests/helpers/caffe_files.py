"""Writes the bytes of a ``.caffemodel``, in each of Caffe's forms."""

import struct


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, content):
    """Encodes a protobuf field: an integer, or bytes."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(tensor, legacy):
    data = field(5, struct.pack(f"<{tensor.numel()}f", *tensor.flatten().tolist()))
    if legacy:
        sizes = [1] * (4 - tensor.dim()) + list(tensor.shape)
        return b"".join(field(1 + k, size) for k, size in enumerate(sizes)) + data
    return field(7, field(1, b"".join(varint(size) for size in tensor.shape))) + data


def caffemodel(layers, generation):
    """Encodes layers (name to tensors) in Caffe's form of a generation, 0 to 2 (V0 to V2)."""
    content = field(1, b"ImageNet_Zeiler") + field(3, b"data") + field(4, 224)
    for name, tensors in layers.items():
        name, blobs = name.encode(), [blob(tensor, legacy=generation < 2) for tensor in tensors]
        if generation == 2:
            inner = field(1, name) + field(2, b"Convolution") + b"".join(field(7, data) for data in blobs)
            content += field(100, inner)
        elif generation == 1:
            inner = (
                field(2, b"data") + field(4, name) + field(5, 4) + b"".join(field(6, data) for data in blobs)
            )
            content += field(2, inner)
        else:
            rate = varint(51 << 3 | 5) + struct.pack("<f", 1.0)
            inner = field(1, name) + field(2, b"conv") + b"".join(field(50, data) for data in blobs) + rate
            content += field(2, field(1, inner) + field(2, b"data"))
    return content
