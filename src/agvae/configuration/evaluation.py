"""All keys of conf/evaluate.yaml: the configuration of `python evaluate.py`."""

from typing import Annotated, ClassVar

from pydantic import Field

from agvae.configuration.data import DataConfig
from agvae.configuration.values import FilePath, Numbers, Section, Text, Words


class Programs(Section):
    """Paths of external codecs. null: the program of this name on PATH."""

    bpgenc: FilePath | None = Field(description="BPG's encoder")
    bpgdec: FilePath | None = Field(description="BPG's decoder")
    EncoderApp: FilePath | None = Field(description="VTM's encoder (EncoderAppStatic is tried too)")
    DecoderApp: FilePath | None = Field(description="VTM's decoder")
    vtm_config: FilePath | None = Field(
        description="VTM's encoder_intra_vtm.cfg; null: in a folder cfg above its encoder"
    )
    vvencapp: FilePath | None = Field(description="VVenC")
    vvdecapp: FilePath | None = Field(description="VVdeC")
    timeout: Annotated[float, Field(gt=0, le=2.0**31)] | None = Field(
        description="time limit of one call in seconds, after which the image is left out; null: no limit"
    )


class Evaluation(Section):
    """The configuration of `python evaluate.py`."""

    GROUPS: ClassVar = ("data",)

    checkpoint: Text = Field(
        description="a training checkpoint (.ckpt), an exported model (.safetensors) or a shipped model's name"
    )
    name: Text | None = Field(description="name of the model in results and plots; null: that of its file")
    qualities: Numbers | None = Field(
        description="a list such as [0,0.5,1]; null: every level, and half-way between levels"
    )
    effort: Annotated[int, Field(ge=0, le=3)] = Field(
        description="how long the encoder of the model searches for smaller files; 0: no search"
    )
    codecs: Annotated[list[Text] | Text, Words("a name", "a list of names")] | None = Field(
        description="codecs to run beside the model: jpeg, webp, avif, jpeg2000, heic, jpegxl, bpg, vtm, vvenc, "
        "compressai:ARCHITECTURE:QUALITY, or package.module:name for your own; []: only the model"
    )
    programs: Programs
    threads: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="number of threads on a CPU; null: one for each core that the process may use"
    )
    device: Text = Field(description="device of the model: cpu, cuda, cuda:1")
    run_dir: FilePath = Field(description="folder of the results")
    data: DataConfig
