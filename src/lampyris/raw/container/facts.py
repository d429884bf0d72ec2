"""Facts (JSON values) and named arrays, as a container keeps them → RawScan."""

from dataclasses import asdict
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from lampyris.model import (
    Acquisition,
    Bowtie,
    Coding,
    Counts,
    FormatError,
    Geometry,
    InputError,
    Noise,
    RawScan,
    Spectrum,
)


def scan_from(facts: dict[str, Any], arrays: dict[str, np.ndarray], counts: Counts, id_: str, name: str) -> RawScan:
    """The inverse of `RawScan.facts` and `RawScan.arrays`; `name` is the file's, for messages.

    Raises FormatError when facts or arrays are missing, unknown, of the wrong type or contradict each other.
    """
    try:
        unknown = set(facts) - _KNOWN
        if unknown:
            raise FormatError(f"{name}: unknown facts {sorted(unknown)}: written by a newer version?")
        return RawScan(
            counts,
            _geometry(facts, arrays),
            arrays["exposure_mas"],
            dark=arrays.get("dark"),
            air=arrays.get("air"),
            air_exposure_mas=_number(facts["air_exposure_mas"]),
            bad_cells=arrays.get("bad_cells"),
            spectrum=_spectrum(facts, arrays),
            noise=None if facts["noise"] is None else _noise(facts["noise"]),
            acquisition=_acquisition(facts["acquisition"], name),
            applied=tuple(str(each) for each in facts["applied"]),
            water_per_mm=None if facts.get("water_per_mm") is None else _number(facts["water_per_mm"]),
            coding=None if facts.get("coding") is None else coding_from(facts["coding"]),
            id=id_,
        )
    except FormatError:
        raise
    except (InputError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(f"{name}: its facts make no scan ({error}): damaged or tampered with?") from error


def coding_facts(coding: Coding) -> dict[str, Any]:
    """A coding as JSON values, as it stands in `RawScan.facts`: without the id of the scan that it was made from."""
    return {key: value for key, value in asdict(coding).items() if key != "source_id"}


def coding_from(facts: dict[str, Any]) -> Coding:
    """The inverse of `coding_facts`. Raises FormatError for missing, unknown and impossible entries."""
    try:
        if set(facts) != {"steps_per_sigma", "pedestal_counts", "noise", "dtype"} or facts["dtype"] not in _COUNTED:
            raise FormatError(
                f"a coding of {sorted(facts)}, counts {facts.get('dtype')!r}: written by a newer version?"
            )
        steps, pedestal = _number(facts["steps_per_sigma"]), _number(facts["pedestal_counts"])
        return Coding(steps, pedestal, _noise(facts["noise"]), facts["dtype"])
    except FormatError:
        raise
    except (InputError, TypeError, AttributeError) as error:
        raise FormatError(f"a coding that makes no steps ({error}): damaged or tampered with?") from error


_COUNTED = {
    np.dtype(name).newbyteorder("<").str for name in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
}
_KNOWN = {
    "rows", "columns", "curvature_mm", "parallel", "air_exposure_mas", "noise", "tube_voltage_kv", "filtration",
    "bowtie_materials", "acquisition", "applied", "water_per_mm", "coding",
}  # fmt: skip


def _noise(facts: dict[str, Any]) -> Noise:
    return Noise(**{key: _number(value) for key, value in facts.items()})


def _geometry(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> Geometry:
    curvature = facts["curvature_mm"]
    if type(facts["rows"]) is not int or type(facts["columns"]) is not int or type(facts["parallel"]) is not bool:
        raise InputError("rows and columns are whole numbers, parallel is true or false")
    return Geometry(
        arrays["source"],
        arrays["detector"],
        arrays["u"],
        arrays["v"],
        facts["rows"],
        facts["columns"],
        None if curvature is None else _number(curvature),
        facts["parallel"],
    )


def _spectrum(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> Spectrum | None:
    if facts["tube_voltage_kv"] is None:
        return None
    materials = facts["bowtie_materials"]
    bowtie = materials and Bowtie(
        arrays["bowtie_fan_angle_rad"], tuple(str(each) for each in materials), arrays["bowtie_thickness_mm"]
    )
    return Spectrum(
        arrays["energy_kev"],
        arrays["photons_per_mas_mm2"],
        arrays["response_kev"],
        _number(facts["tube_voltage_kv"]),
        tuple((str(material), _number(thickness)) for material, thickness in facts["filtration"]),
        bowtie or None,
    )


def _acquisition(values: dict[str, Any], name: str) -> Acquisition:
    kinds = get_type_hints(Acquisition)
    if set(values) - set(kinds):
        raise FormatError(f"{name}: unknown acquisition facts {sorted(set(values) - set(kinds))}: a newer version?")
    checked: dict[str, Any] = {key: _of_kind(key, value, kinds[key]) for key, value in values.items()}
    return Acquisition(**checked)


def _of_kind(key: str, value: Any, kind: Any) -> Any:
    kinds = get_args(kind) if get_origin(kind) is not tuple else (kind,)
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, str) and str in (*kinds, kind):
        return value
    if float in (*kinds, kind):
        return _number(value)
    if isinstance(value, list) and get_origin(kind) is tuple and len(value) == len(get_args(kind)):
        return tuple(_number(each) for each in value)
    raise InputError(f"acquisition fact {key} is {value!r}, expected {kind}")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise InputError(f"{value!r} stands where a finite number is expected")
    return float(value)
