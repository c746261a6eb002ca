"""The keys of conf/evaluate.yaml, all of them: what `python evaluate.py` takes."""

from typing import Annotated, ClassVar

from pydantic import Field

from agvae.configuration.data import DataConfig
from agvae.configuration.values import FilePath, Numbers, Section, Text, Words


class Programs(Section):
    """External codecs; null: by this name on PATH."""

    bpgenc: FilePath | None = Field(description="BPG's encoder")
    bpgdec: FilePath | None = Field(description="BPG's decoder")
    EncoderApp: FilePath | None = Field(description="VTM's encoder (EncoderAppStatic is looked for too)")
    DecoderApp: FilePath | None = Field(description="VTM's decoder")
    vtm_config: FilePath | None = Field(
        description="VTM's encoder_intra_vtm.cfg; null: in a folder cfg above its encoder"
    )
    vvencapp: FilePath | None = Field(description="VVenC")
    vvdecapp: FilePath | None = Field(description="VVdeC")
    timeout: Annotated[float, Field(gt=0, le=2.0**31)] | None = Field(
        description="seconds that one call may take, after which the image is left out; null: no limit"
    )


class Evaluation(Section):
    """What `python evaluate.py` takes."""

    GROUPS: ClassVar = ("data",)

    checkpoint: Text = Field(
        description="a training checkpoint (.ckpt), an exported model (.safetensors) or a shipped model's name"
    )
    name: Text | None = Field(description="what results and plots call the model; null: the name of its file")
    qualities: Numbers | None = Field(
        description="a list such as [0,0.5,1]; null: every level and the qualities half-way between levels"
    )
    effort: Annotated[int, Field(ge=0, le=3)] = Field(
        description="how long the model's encoder searches for smaller files; 0: not at all"
    )
    codecs: Annotated[list[Text] | Text, Words("a name", "a list of names")] | None = Field(
        description="what to run beside the model: jpeg, webp, avif, jpeg2000, heic, jpegxl, bpg, vtm, vvenc, "
        "compressai:ARCHITECTURE:QUALITY, or package.module:name of your own; [] for the model alone"
    )
    programs: Programs
    threads: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="on a CPU; null: as many as the cores that the process may use"
    )
    device: Text = Field(description="where the model runs: cpu, cuda, cuda:1")
    run_dir: FilePath = Field(description="where results go")
    data: DataConfig
