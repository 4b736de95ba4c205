"""Files that lie, point elsewhere, or carry code. Each function writes one and returns the path to import."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_files
import h5py
import numpy as np
import small_datasets
from foreign_files import play
from numpy.typing import NDArray

from dom2data import convert

HUGE = 10**13


class Payload:
    """Unpickling it leaves a mark in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path("it-ran").write_text, ("",)


def npy(shape: Any = (4,), descr: str = "'<f4'", body: bytes = b"", version: int = 1) -> bytes:
    """A ``.npy`` file with any header."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + body


def arrays() -> dict[str, NDArray[Any]]:
    """The arrays of a small dataset, to be spoilt."""
    return dict(small_datasets.in_memory([4, 3]).arrays())


def npz(path: Path, spoilt: dict[str, Any], **raw: bytes) -> Path:
    """An npz file of a small dataset with some arrays replaced, or entries of any bytes added."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in (arrays() | spoilt).items():
            if f"{name}.npy" in raw or array is None:
                continue
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", stream.getvalue())
        for name, content in raw.items():
            archive.writestr(name, content)
    return path


def omar(path: Path, field: str, content: bytes) -> Path:
    foreign_files.omar(path, play([25]))
    (path / "seed_0_data" / f"{field}_1.npy").write_bytes(content)
    return path


def hdf5(path: Path, change: Callable[[h5py.File], None]) -> Path:
    foreign_files.omiga(path, play([5, 5]))
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(name: str, how: Callable[[h5py.File], None]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        how(file)

    return change


def _external_storage(file: h5py.File) -> None:
    file.create_dataset("a", shape=(10, 3, 2), dtype="f4", external=[("/etc/passwd", 0, 240)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((10, 3, 2), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (10, 3, 2))
    file.create_virtual_dataset("a", layout)


def _external_link(file: h5py.File) -> None:
    file["a"] = h5py.ExternalLink("../../secret.hdf5", "/a")


def _soft_link(file: h5py.File) -> None:
    file["a"] = h5py.SoftLink("/o")


def _text(file: h5py.File) -> None:
    file.create_dataset("a", data=["x"] * 10, dtype=h5py.string_dtype())


def _ragged(file: h5py.File) -> None:
    file.create_dataset("a", (10,), dtype=h5py.vlen_dtype("f4"))


def _references(file: h5py.File) -> None:
    file.create_dataset("a", (10, 3, 2), dtype=h5py.ref_dtype)


def _huge(file: h5py.File) -> None:
    file.create_dataset("a", (HUGE, 3, 2), "f4", chunks=(1000, 3, 2), compression="gzip")


def _empty(file: h5py.File) -> None:
    file.create_dataset("a", data=h5py.Empty("f4"))


def _group(file: h5py.File) -> None:
    file.create_group("a")


def _nan(file: h5py.File) -> None:
    file["o"][3, 1, 2] = np.nan


def _complex(file: h5py.File) -> None:
    file["a"] = np.zeros((10, 3, 2), np.complex64)


def _fewer(file: h5py.File) -> None:
    file["a"] = np.zeros((9, 3, 2), np.float32)


def _agents_differ(file: h5py.File) -> None:
    file["d"][2, 1] = True


HDF5 = {
    "external storage": replace("a", _external_storage),
    "virtual": replace("a", _virtual),
    "external link": replace("a", _external_link),
    "soft link": replace("a", _soft_link),
    "text": replace("a", _text),
    "ragged rows": replace("a", _ragged),
    "references": replace("a", _references),
    "huge": replace("a", _huge),
    "no shape": replace("a", _empty),
    "a group": replace("a", _group),
    "missing": replace("a", lambda file: None),
    "complex": replace("a", _complex),
    "fewer rows": replace("a", _fewer),
    "NaN": _nan,
    "agents end apart": _agents_differ,
}

NPY = {
    "pickled": npy((50,), "'|O'", pickle.dumps(Payload())),
    "structured": npy((50,), "[('x', '<f4')]", bytes(200)),
    "text": npy((50,), "'<U1'", bytes(200)),
    "dates": npy((50,), "'<M8[s]'", bytes(400)),
    "huge": npy((HUGE, 2), body=bytes(400)),
    "huge empty": npy((HUGE, HUGE, 0)),
    "negative": npy((-25, -2), body=bytes(200)),
    "truncated": npy((25, 2), body=bytes(199)),
    "longer": npy((25, 2), body=bytes(201)),
    "code in the header": npy("__import__('os')"),
    "deep header": npy("(" * 60_000),
    "version 9": npy(version=9),
    "other rows": npy((24, 2), body=bytes(192)),
    "other width": npy((25, 3), body=bytes(300)),
    "no axes": npy((), body=bytes(4)),
    "not npy": b"PK\x03\x04",
    "empty": b"",
}


def _spoilt(name: str, value: Any) -> dict[str, Any]:
    array = arrays()[name]
    array = array.copy()
    array.reshape(-1)[0] = value
    return {name: array}


NPZ: dict[str, dict[str, Any]] = {
    "pickled": {"source": np.array([Payload(), 1], dtype=object)},
    "a policy of thousands of millions": _spoilt("source", 10**15),
    "a policy below the first": _spoilt("source", -1),
    "NaN": _spoilt("observations", np.nan),
    "infinite": _spoilt("rewards", np.inf),
    "out of bounds": _spoilt("actions", 1.5),
    "not from zero": _spoilt("offsets", 1),
    "negative offsets": {"offsets": np.array([0, -4, 7])},
    "beyond the end": {"offsets": np.array([0, 4, 8])},
    "empty episode": {"offsets": np.array([0, 7, 7])},
    "wrapped offsets": {"offsets": np.array([0, 2**63 - 1, 7])},
    "open end": {"terminated": np.zeros(2, bool), "truncated": np.zeros(2, bool)},
    "float64": {"actions": arrays()["actions"].astype(np.float64)},
    "int32 offsets": {"offsets": arrays()["offsets"].astype(np.int32)},
    "flags as numbers": {"terminated": np.zeros(2, np.float32)},
    "transposed": {"actions": arrays()["actions"].transpose(1, 0, 2).copy()},
    "fewer rewards": {"rewards": arrays()["rewards"][:-1]},
    "one reward": {"rewards": arrays()["rewards"][:, :1]},
    "no observations": {"observations": None},
    "no episodes": {"offsets": np.zeros(1, np.int64)},
    "no offsets": {"offsets": np.zeros(0, np.int64)},
    "no agents": {"actions": np.zeros((7, 0, 2), np.float32)},
    "note of another kind": {"dom2": np.frombuffer(b"[1, 2]", np.uint8)},
    "note not JSON": {"dom2": np.frombuffer(b"\xff{", np.uint8)},
    "note too deep": {"dom2": np.frombuffer(b"[" * 100_000, np.uint8)},
    "note as floats": {"dom2": np.array([np.nan, 1e300])},
}


def note(**changes: Any) -> dict[str, Any]:
    """A note whose spec has other values."""
    spec = small_datasets.spec().to_json() | changes
    text = json.dumps({"spec": spec, "env": "tag", "quality": None, "sources": []})
    return {"dom2": np.frombuffer(text.encode(), np.uint8)}


NOTES: dict[str, dict[str, Any]] = {
    "horizon as text": {"horizon": "25"},
    "horizon of nothing": {"horizon": 0},
    "too many agents": {"agent_names": ["a"] * 1000, "obs_dims": [5] * 1000},
    "agents without sizes": {"obs_dims": []},
    "a huge size": {"act_dim": 10**30},
    "bounds the wrong way": {"act_low": 1.0, "act_high": -1.0},
    "another reward": {"reward": "all mine"},
    "facts as a list": {"facts": []},
    "a key too many": {"surprise": 1},
}


def names(entry: str) -> Callable[[Path], Path]:
    return lambda path: npz(path, {}, **{entry: npy((4,), body=bytes(16))})


ENTRIES = ["../up.npy", "/tmp/absolute.npy", "a/b.npy", "..\\up.npy", "notes.txt"]


def bomb(path: Path) -> Path:
    """A few kilobytes that claim to be terabytes: the header is true, the archive's own size is not."""
    npz(path, {"actions": None}, **{"actions.npy": npy((HUGE, 3, 2), body=bytes(1000))})
    return path


def zipped(path: Path, content: Any = None) -> Path:
    """An entry of true size, but far more than its bytes can hold, is refused by its table of contents."""
    npz(path, {})
    data = bytearray(path.read_bytes())
    where = data.rfind(b"PK\x01\x02")
    data[where + 24 : where + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(bytes(data))
    return path


def safetensors(path: Path, header: Any, body: bytes = bytes(64)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


SAFETENSORS: dict[str, Any] = {
    "huge": {"actions": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, HUGE * 4]}},
    "overlapping": {
        name: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} for name in ("actions", "rewards")
    },
    "not JSON": b"{",
    "another type": {"actions": {"dtype": "BF16", "shape": [32], "data_offsets": [0, 64]}},
    "empty": {},
}


def torchrl(path: Path, **changes: Any) -> Path:
    foreign_files.torchrl(path, play([4, 3]))
    meta = json.loads((path / "agents" / "meta.json").read_text())
    meta["action"] |= changes
    (path / "agents" / "meta.json").write_text(json.dumps(meta))
    return path


TORCHRL: dict[str, dict[str, Any]] = {
    "huge": {"shape": [HUGE, 3, 2]},
    "negative": {"shape": [-7, -3, 2]},
    "true": {"shape": [True, 3, 2]},
    "text": {"shape": "7,3,2"},
    "fractions": {"shape": [7.0, 3.0, 2.0]},
    "another type": {"dtype": "object"},
    "unhashable type": {"dtype": []},
    "other shape": {"shape": [7, 2, 3]},
}


def vault(path: Path, index: int | None = None, **changes: Any) -> Path:
    import tensorstore as ts

    foreign_files.vault(path, [play([4, 4])])
    if index is not None:
        kvstore = {"driver": "ocdbt", "base": f"file://{path}", "path": "vault_index"}
        store = ts.open({"driver": "zarr", "kvstore": kvstore}).result()
        store.write(np.array([index], np.int32)).result()
    metadata = json.loads((path / "metadata.json").read_text()) | changes
    (path / "metadata.json").write_text(json.dumps(metadata))
    return path


VAULTS: dict[str, dict[str, Any]] = {
    "a huge index": {"index": 2**31 - 1},
    "a negative index": {"index": -5},
    "no rows": {"index": 0},
    "structure as text": {"structure_shape": "x"},
    "code as structure": {"structure_shape": dict.fromkeys(convert.FORMATS, "__import__('os')")},
    "version as text": {"version": "1.2"},
    "version 2": {"version": 2.0},
}
